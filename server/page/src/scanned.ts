/** A token that came in the address, from the QR code of `lanecast serve --dev --lan`. */

const TOKEN_KEY = 'lanecast.token';

/** The user and token of the code that was scanned, if one was; a reload of the tab still knows them. */
export function scanned(): { user: string; token: string } | undefined {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  if (given) {
    sessionStorage.setItem(TOKEN_KEY, given);
    // Out of the address at once, which may be shared or kept (LC-SEC-002).
    history.replaceState(null, '', location.pathname + location.search);
  }
  const token = given ?? sessionStorage.getItem(TOKEN_KEY);
  if (!token) return undefined;
  try {
    const claims = (token.split('.')[1] ?? '').replaceAll('-', '+').replaceAll('_', '/');
    const bytes = Uint8Array.from(atob(claims), (char) => char.charCodeAt(0));
    const { sub } = JSON.parse(new TextDecoder().decode(bytes)) as { sub: string };
    return { user: sub, token };
  } catch {
    sessionStorage.removeItem(TOKEN_KEY);
    return undefined;
  }
}
