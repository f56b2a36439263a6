/** The side of the page that shows the wire: state, position, counts, gaps, cuts and resumes, the bad network. */
import { type Client, type GapItem, LANES, positionText, type Subscription } from '@lanecast/client';
import type { Cable } from './cable.js';
import { byId, clock, duration, make, plural, setText } from './dom.js';
import { Queues } from './queues.js';
import type { Transports } from './transport.js';

/** How long a cut lasts at most, so that something can be missed. */
const CUT_MS = 8_000;
/** Bytes per second of the bad network. */
const BAD_RATE = 8_000;
/** What the second switch says of what it does. */
const QUEUE_HINTS = {
  lanes: 'Off: lanes. A call overtakes the burst.',
  one: 'Everything towards this tab in one order, as without lanes: a call waits for the burst.',
};
const STORY_MAX = 6;
const GAPS_MAX = 50;

const CAUSES: Record<GapItem['cause'], string> = {
  trimmed: 'no longer in the log',
  expired: 'expired before delivery',
  erased: 'erased on request',
  filtered: 'not for you',
  'rolled-back': 'lost by the log, revoked',
  unknown: 'unknown',
  dropped: 'dropped by a full queue',
};

/** What a gap says, as a sentence. */
export function sentence(gap: GapItem): string {
  const what = gap.from
    ? `${gap.lane} ${gap.from}${gap.to === undefined ? ' and after' : gap.to === gap.from ? '' : `–${gap.to}`}`
    : `${gap.count === undefined ? 'some' : gap.count} transient`;
  return `Missing: ${what} (${CAUSES[gap.cause]})`;
}

/** The instruments of one client. */
export class Wire {
  /** The token provider waits for it: a cut holds the line open for a while. */
  held: Promise<void> = Promise.resolve();
  /** Ends the cut that lasts. */
  private mend: (() => void) | undefined;
  private lostAt = 0;
  private wasCut = false;
  /** Gaps of the subscription before the connection was lost. */
  private gapsBefore = 0;
  private subscriptions = 0;
  private gaps = 0;
  private rated = '';

  constructor(
    private readonly client: Client,
    private readonly cable: Cable,
    private readonly transports: Transports,
    private readonly resumed: (events: number, gaps: number) => void,
  ) {}

  /** Follows the client and its subscription until `signal` aborts. */
  run(subscription: Subscription, development: boolean, signal: AbortSignal): void {
    const options = { signal };
    for (const id of ['bad-row', 'queue-row', 'queues-card']) byId(id).hidden = !development;
    if (development) new Queues(byId('queues')).run(() => this.connection, signal);
    byId('cut').addEventListener('click', () => this.cut(), options);
    for (const id of ['bad', 'queue']) byId(id).addEventListener('change', () => void this.rate(), options);
    const draw = () => this.draw(subscription);
    const timer = setInterval(draw, 250);
    const off = [this.client.onState(() => this.changed()), subscription.onState(() => this.roomChanged(subscription))];
    signal.addEventListener('abort', () => {
      clearInterval(timer);
      off.forEach((end) => end());
    });
    this.subscriptions = subscription.stats.subscriptions;
    draw();
    void this.rate();
  }

  /** Adds a gap to the list. */
  gap(gap: GapItem): void {
    this.gaps++;
    byId('no-gaps').hidden = true;
    const list = byId('gaps');
    list.prepend(make('li', gap.lane ?? '', make('time', '', clock(Date.now())), make('span', '', sentence(gap))));
    while (list.childElementCount > GAPS_MAX) list.lastElementChild?.remove();
  }

  /** Cuts the connection, or ends the cut. */
  private cut(): void {
    if (this.mend) return this.mend();
    if (!this.cable.cut()) return;
    const button = byId('cut');
    this.held = new Promise((done) => {
      const end = () => {
        clearTimeout(timer);
        this.mend = undefined;
        setText(button, 'Cut my connection');
        this.client.networkChanged();
        done();
      };
      const timer = setTimeout(end, CUT_MS);
      this.mend = end;
    });
    this.wasCut = true;
    setText(button, 'Reconnect now');
    this.tell(`Cut. Nothing gets through until you reconnect, or for ${CUT_MS / 1000} s.`);
  }

  /** Another transport was chosen: the connection is replaced by one over it, which resumes. */
  change(): void {
    this.wasCut = true;
    if (this.mend || !this.cable.cut()) return;
    this.tell('Another transport: a new connection resumes where this one stood.');
    this.client.networkChanged();
  }

  private changed(): void {
    const { state } = this.client;
    if (state.name === 'suspended' && !this.lostAt) {
      this.lostAt = performance.now();
      if (!this.wasCut) this.tell(`Connection lost: ${state.cause.name}.`);
    }
    if (state.name === 'connected') void this.rate();
    if (state.name === 'closed') this.tell(`Closed: ${state.cause.name}. ${state.cause.detail}`);
    this.drawState();
  }

  private roomChanged(subscription: Subscription): void {
    this.drawState(subscription);
    const { subscriptions, behind, gaps } = subscription.stats;
    if (subscription.state.name === 'subscribing') this.gapsBefore = gaps;
    if (subscription.state.name !== 'live' || subscriptions === this.subscriptions) return;
    this.subscriptions = subscriptions;
    if (!this.lostAt) return;
    const over = this.client.transport === 'webtransport' ? ' over WebTransport' : '';
    this.tell(`Back after ${duration(performance.now() - this.lostAt)}${over}. The resume brought ${plural(behind, 'event')}.`);
    this.lostAt = 0;
    this.wasCut = false;
    this.resumed(behind, gaps - this.gapsBefore);
  }

  private tell(text: string): void {
    const story = byId('story');
    story.prepend(make('li', '', make('time', '', clock(Date.now())), make('span', '', text)));
    while (story.childElementCount > STORY_MAX) story.lastElementChild?.remove();
  }

  /** Id of the present connection. */
  private get connection(): string | undefined {
    const { state } = this.client;
    return state.name === 'connected' ? state.connectionId : undefined;
  }

  /** Makes the network of the present connection what the switches say. */
  private async rate(): Promise<void> {
    const [bad, oneQueue] = ['bad', 'queue'].map((id) => byId<HTMLInputElement>(id).checked);
    document.body.classList.toggle('bad-network', bad);
    setText(byId('queue-hint'), oneQueue ? QUEUE_HINTS.one : QUEUE_HINTS.lanes);
    const { connection } = this;
    if (!connection) return;
    const wanted = `${connection} ${bad} ${oneQueue}`;
    // A new connection begins without a limit, and with lanes.
    const begun = this.rated.startsWith(`${connection} `) || bad || oneQueue;
    if (wanted === this.rated || !begun) return;
    this.rated = wanted;
    const body = JSON.stringify({ bytes_per_second: bad ? BAD_RATE : null, oneQueue });
    const path = `/v1/dev/connections/${encodeURIComponent(connection)}/rate`;
    const answer = await fetch(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body });
    if (!answer.ok) this.tell(`The node did not change the network: ${answer.status}.`);
  }

  private drawState(subscription?: Subscription): void {
    const { state } = this.client;
    const element = document.querySelector<HTMLElement>('.state');
    const room = subscription?.state.name;
    const catching = state.name === 'connected' && room !== undefined && room !== 'live';
    if (element) element.dataset['state'] = catching ? 'catching-up' : state.name;
    const text: Record<typeof state.name, string> = {
      ...{ idle: 'starting', connecting: this.lostAt ? 'reconnecting' : 'connecting', connected: catching ? room.replace('-', ' ') : 'live' },
      ...{ suspended: 'reconnecting', closed: 'closed' },
    };
    setText(byId('state-text'), text[state.name]);
  }

  private draw(subscription: Subscription): void {
    this.drawState(subscription);
    this.transports.draw(this.client);
    const { position, stats } = subscription;
    const { state } = this.client;
    for (const lane of LANES) setText(byId(`at-${lane}`), position ? `${position[lane]}` : '–');
    byId('position').dataset['position'] = position ? positionText(position) : '';
    setText(byId('epoch'), position ? `${position.epoch}` : '–');
    setText(byId('events'), `${stats.events}`);
    setText(byId('duplicates'), `${stats.duplicates}`);
    setText(byId('gap-count'), `${this.gaps}`);
    setText(byId('waiting'), `${this.client.waiting}`);
    setText(byId('trip'), this.client.roundTripMs ? duration(this.client.roundTripMs) : '–');
    setText(byId('connection'), state.name === 'connected' ? state.connectionId : '–');
  }
}
