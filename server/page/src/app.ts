/** The page at `/`: a chat of as many tabs as you like, over the client that applications use, with its wire laid open. */
import { Client, type EventItem, type Room } from '@lanecast/client';
import { Cable } from './cable.js';
import { Chat } from './chat.js';
import { byId, hueOf, setText } from './dom.js';
import { Lanes } from './lanes.js';
import { People } from './people.js';
import { scanned } from './scanned.js';
import { Transports } from './transport.js';
import { sentence, Wire } from './wire.js';

const ROOM = 'demo';
const USER_KEY = 'lanecast.user';
/** Messages from before that a new tab shows. */
const BEFORE = 50;
/** Blocks are short, so that a call on a bad network waits for one only briefly. */
const BURST_BLOCKS = 200;
const BLOCK_BYTES = 1024;

interface Description {
  development: boolean;
  /** Whether the node serves WebTransport. */
  webtransport: boolean;
}

async function describe(): Promise<Description> {
  const answer = await fetch('/.well-known/lanecast');
  const { development = false, webtransport } = (await answer.json()) as { development?: boolean; webtransport?: unknown };
  return { development, webtransport: webtransport !== undefined };
}

/** Asks for a name, and for a token where the node wants one. */
function ask(known: string, development: boolean): Promise<{ user: string; token: string }> {
  const dialog = byId<HTMLDialogElement>('join');
  const name = byId<HTMLInputElement>('name');
  byId('token-row').hidden = development;
  name.value = known;
  dialog.showModal();
  name.select();
  return new Promise((done) => {
    dialog.addEventListener('cancel', (event) => event.preventDefault());
    byId<HTMLFormElement>('join-form').onsubmit = () => {
      const user = name.value.trim();
      done({ user, token: development ? `dev:${user}` : byId<HTMLInputElement>('token').value.trim() });
    };
  });
}

/** A message or a call of this tab. */
function send(room: Room, lanes: Lanes, type: 'msg' | 'call', text: string): void {
  const lane = type === 'call' ? 'urgent' : 'normal';
  const publish = room.publish({ type, lane, text, headers: lanes.begin() });
  publish.catch((error: Error) => alert(error.message));
}

function burst(room: Room, lanes: Lanes): void {
  // Not randomUUID, which a page has by https or on its own machine only.
  const id = crypto.getRandomValues(new Uint32Array(4)).join('-');
  const data = new Uint8Array(BLOCK_BYTES);
  for (let block = 0; block < BURST_BLOCKS; block++) {
    const headers = { ...lanes.begin(), burst: id, of: `${BURST_BLOCKS}` };
    room.publish({ type: 'bulk', lane: 'bulk', data, headers }).catch((error: Error) => console.warn(error.message));
  }
}

/** Snapshot, then stream: what was there first, and from exactly there on. */
async function follow(room: Room, chat: Chat) {
  const page = await room.history({ limit: BEFORE, lanes: ['urgent', 'normal'] });
  for (const event of page.events.reverse()) chat.event(event);
  return room.subscribe(page.head ? { from: { position: page.head } } : {});
}

async function run(description: Description, user: string, token: string): Promise<void> {
  const cable = new Cable();
  const lanes = new Lanes(byId('lanes'));
  const abort = new AbortController();
  const { signal } = abort;
  let wire: Wire | undefined;
  const transports = new Transports(description.webtransport, () => wire?.change());
  const client = new Client({
    url: '/',
    transport: () => transports.choice,
    WebSocket: cable.socket,
    ...(cable.webTransport && { WebTransport: cable.webTransport }),
    app: { name: 'lanecast-page', version: '1' },
    token: async () => {
      await wire?.held;
      return token;
    },
    onDiagnostic: (error) => console.warn(error.message),
  });
  const isMine = (event: EventItem) => event.from.instance === client.instance || event.from.user === user;
  const chat = new Chat(isMine);
  wire = new Wire(client, cable, transports, (events, gaps) => chat.resumed(events, gaps));
  const room = client.room(ROOM);
  const people = new People(room, user, client.instance, byId('stage'));

  const field = byId<HTMLInputElement>('text');
  field.oninput = () => people.typed(field.value);
  byId<HTMLFormElement>('composer').onsubmit = (event) => {
    event.preventDefault();
    const text = field.value.trim();
    if (text) send(room, lanes, 'msg', text);
    field.value = '';
    people.typed('');
  };
  byId('call').onclick = () => send(room, lanes, 'call', 'call');
  byId('bulk').onclick = () => burst(room, lanes);

  await client.connect();
  const subscription = await follow(room, chat);
  wire.run(subscription, description.development, signal);
  people.run(signal).catch((error: Error) => console.warn(error.message));
  try {
    for await (const item of subscription) {
      if (item.kind === 'gap') {
        chat.gap(item, sentence(item));
        wire.gap(item);
      } else {
        const own = item.from.instance === client.instance;
        chat.event(item, own ? lanes.end(item.lane, item.headers) : undefined);
      }
    }
  } finally {
    abort.abort();
  }
}

function showViews(): void {
  for (const button of document.querySelectorAll<HTMLButtonElement>('[data-show]')) {
    button.onclick = () => {
      document.body.dataset['view'] = button.dataset['show'] ?? 'chat';
      for (const each of document.querySelectorAll('[data-show]')) each.setAttribute('aria-pressed', `${each === button}`);
    };
  }
}

async function main(): Promise<void> {
  showViews();
  const description = await describe();
  const asked = new URLSearchParams(location.search).get('user');
  const known = asked ?? sessionStorage.getItem(USER_KEY) ?? '';
  const free = known && description.development ? { user: known, token: `dev:${known}` } : undefined;
  const brought = scanned();
  const { user, token } = brought ?? free ?? (await ask(known, description.development));
  sessionStorage.setItem(USER_KEY, user);
  const me = byId<HTMLButtonElement>('rename');
  setText(me, user);
  me.classList.add(hueOf(user));
  // Who came with a token is who it says.
  me.disabled = brought !== undefined;
  me.onclick = async () => {
    const next = await ask(user, description.development);
    sessionStorage.setItem(USER_KEY, next.user);
    // A new name is a new user: begin anew, without the name in the address.
    location.assign(location.pathname);
  };
  await run(description, user, token);
}

main().catch((error: unknown) => {
  const element = document.querySelector<HTMLElement>('.state');
  if (element) element.dataset['state'] = 'closed';
  setText(byId('state-text'), error instanceof Error ? error.message : String(error));
});
