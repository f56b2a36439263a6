/** What waits at the node for this tab, by lane: bytes, how long it waits, and what became of what did not wait in vain. */
import { duration, make, plural, setText } from './dom.js';

/** How often the node is asked. */
const LOOK_MS = 1000;
/** The longest wait is the one of so many looks. */
const WAITS_KEPT = 5;
/** A queue that fills its bar: what the node holds for one lane of one connection before it pulls instead. */
const FULL_BYTES = 64 * 1024;

const SHOWN = ['urgent', 'normal', 'signal', 'bulk'] as const;
type Shown = (typeof SHOWN)[number];

/** One lane, as `GET /v1/dev/connections/{id}/lanes` describes it. */
interface Figures {
  queuedBytes: number;
  waitedMaxMs: number;
  dropped: number;
  expired: number;
  conflated: number;
  catchUpsCache: number;
  catchUpsLog: number;
}

interface Row {
  bytes: HTMLElement;
  bar: HTMLElement;
  wait: HTMLElement;
  more: HTMLElement;
  waits: number[];
}

/** The instrument. */
export class Queues {
  private readonly rows = new Map<Shown, Row>();
  private looking = false;

  constructor(into: HTMLElement) {
    for (const lane of SHOWN) {
      const [bytes, bar, wait, more] = [make('span', 'bytes', '–'), make('i'), make('span', 'wait', '–'), make('span', 'more')];
      bytes.dataset['testid'] = `queued-${lane}`;
      wait.dataset['testid'] = `waited-${lane}`;
      const row = make('div', `queue ${lane}`, make('span', 'lane-name', lane), bytes, wait, make('span', 'fill', bar), more);
      into.append(row);
      this.rows.set(lane, { bytes, bar, wait, more, waits: [] });
    }
  }

  /** Asks about the connection that `id` names, again and again, until `signal` aborts. */
  run(id: () => string | undefined, signal: AbortSignal): void {
    const look = () => {
      const connection = id();
      if (connection && !this.looking && document.visibilityState === 'visible') void this.look(connection, signal);
    };
    const timer = setInterval(look, LOOK_MS);
    signal.addEventListener('abort', () => clearInterval(timer));
    look();
  }

  private async look(connection: string, signal: AbortSignal): Promise<void> {
    this.looking = true;
    try {
      const answer = await fetch(`/v1/dev/connections/${encodeURIComponent(connection)}/lanes`, { signal });
      if (!answer.ok) return;
      const { lanes } = (await answer.json()) as { lanes: Record<Shown, Figures> };
      for (const lane of SHOWN) this.draw(lane, lanes[lane]);
    } catch {
      // The node is away; the state of the connection says so.
    } finally {
      this.looking = false;
    }
  }

  private draw(lane: Shown, figures: Figures): void {
    const row = this.rows.get(lane);
    if (!row) return;
    row.waits.push(figures.waitedMaxMs);
    if (row.waits.length > WAITS_KEPT) row.waits.shift();
    setText(row.bytes, size(figures.queuedBytes));
    const wait = Math.max(...row.waits);
    setText(row.wait, wait ? duration(wait) : '–');
    row.bar.style.setProperty('--share', `${Math.min(100, (figures.queuedBytes / FULL_BYTES) * 100)}%`);
    setText(row.more, sums(figures).join(' · '));
  }
}

/** What there was none of is not said. */
function sums({ dropped, expired, conflated, catchUpsCache, catchUpsLog }: Figures): string[] {
  const catchUps = catchUpsCache + catchUpsLog;
  const all = [
    [dropped, `${dropped} dropped`],
    [expired, `${expired} expired`],
    [conflated, `${conflated} replaced by newer`],
    [catchUps, plural(catchUps, 'catch-up')],
  ] as const;
  return all.flatMap(([count, text]) => (count ? [text] : []));
}

/** `850 B`, `12.3 KB`. */
const size = (bytes: number) => (bytes < 1000 ? `${bytes} B` : `${(bytes / 1000).toFixed(bytes < 100_000 ? 1 : 0)} KB`);
