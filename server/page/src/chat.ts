/** The messages: events in the order in which they were handed over, gaps in their place, bulk events as one line. */
import type { EventItem, GapItem } from '@lanecast/client';
import { byId, clock, duration, hueOf, make, plural, setText } from './dom.js';

/** Lines that are kept; older ones leave the page. */
const LINES_MAX = 400;

interface Burst {
  count: number;
  of: number;
  label: HTMLElement;
  bar: HTMLElement;
  progress: HTMLElement;
}

/** The list of messages. */
export class Chat {
  private readonly log = byId('log');
  private readonly lines = new Map<string, HTMLElement>();
  private readonly bursts = new Map<string, Burst>();
  private lastFrom = '';

  /** The newest line is in view, and stays so. */
  private atEnd = true;

  constructor(private readonly isMine: (event: EventItem) => boolean) {
    const { log } = this;
    log.addEventListener('scroll', () => {
      this.atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
    });
    new ResizeObserver(() => this.follow()).observe(log);
  }

  private follow(): void {
    if (this.atEnd) this.log.scrollTop = this.log.scrollHeight;
  }

  /** Shows an event. */
  event(event: EventItem, latencyMs?: number): void {
    if (event.type === 'bulk') return this.block(event);
    const mine = this.isMine(event);
    const calls = event.type === 'call';
    const name = event.from.user || event.from.service;
    const text = calls ? `${mine ? 'You are' : `${name} is`} calling` : (event.text ?? `${event.data?.length ?? 0} bytes`);
    const line = make('li', `${calls ? 'call-line' : 'message'} ${mine ? 'mine' : ''} ${hueOf(name)}`);
    line.dataset['testid'] = calls ? 'call-line' : 'message';
    line.dataset['order'] = `${event.order}`;
    const follows = !calls && this.lastFrom === name;
    if (follows) line.classList.add('follows');
    this.lastFrom = calls ? '' : name;
    if (!follows && !mine && !calls) line.append(make('span', 'name', name));
    const time = make('time', '', clock(event.timeMs));
    const meta = make('span', 'meta', time);
    if (latencyMs !== undefined) meta.append(make('span', 'took', duration(latencyMs)));
    line.append(make('span', 'body', text), meta);
    this.add(line);
    if (event.seq) this.lines.set(`${event.lane} ${event.seq}`, line);
  }

  /** Bulk events are shown as one line that grows. */
  private block(event: EventItem): void {
    const { burst = '', of = '0' } = event.headers;
    const id = `${event.from.instance} ${burst}`;
    let shown = this.bursts.get(id);
    if (!shown) {
      const label = make('span', 'body');
      const bar = make('i');
      const progress = make('span', 'progress', bar);
      progress.setAttribute('role', 'progressbar');
      progress.setAttribute('aria-label', 'Bulk burst');
      const line = make('li', 'bulk-line', label, progress);
      line.dataset['testid'] = 'bulk-line';
      shown = { count: 0, of: Number(of) || 1, label, bar, progress };
      this.bursts.set(id, shown);
      this.lastFrom = '';
      this.add(line);
    }
    shown.count++;
    const who = this.isMine(event) ? 'You' : event.from.user;
    const share = Math.min(100, (shown.count / shown.of) * 100);
    setText(shown.label, `${who} sent a bulk burst: ${shown.count} of ${shown.of} blocks here`);
    shown.bar.style.setProperty('--share', `${share}%`);
    shown.progress.setAttribute('aria-valuenow', share.toFixed(0));
    if (shown.count >= shown.of) this.bursts.delete(id);
  }

  /** Shows a gap in its place, and takes back what it revokes. */
  gap(gap: GapItem, text: string): void {
    if (gap.cause === 'rolled-back' && gap.lane) {
      for (const [key, line] of this.lines) {
        const [lane, seq] = key.split(' ');
        const revoked = lane === gap.lane && Number(seq) >= gap.from && Number(seq) <= (gap.to ?? Infinity);
        if (!revoked) continue;
        line.classList.add('revoked');
        line.title = 'The log lost this event';
        this.lines.delete(key);
      }
    }
    const line = make('li', 'gap-line', text);
    line.dataset['testid'] = 'gap-line';
    this.lastFrom = '';
    this.add(line);
  }

  /** A resume is worth a line of its own among the messages. */
  resumed(events: number, gaps: number): void {
    if (!events && !gaps) return;
    this.lastFrom = '';
    this.add(make('li', 'note-line', `Back. ${plural(events, 'event')} caught up, ${gaps ? plural(gaps, 'gap') : 'none missing'}.`));
  }

  private add(line: HTMLElement): void {
    byId('empty').hidden = true;
    const { log } = this;
    log.append(line);
    while (log.childElementCount > LINES_MAX) log.firstElementChild?.remove();
    for (const [key, shown] of this.lines) {
      if (shown.isConnected) break;
      this.lines.delete(key);
    }
    this.follow();
  }
}
