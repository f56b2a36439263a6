/**
 * The driver of this SDK for the conformance suite (`conformance/driver.md`): dials the suite's WebSocket, does what it is told,
 * reports what the client does, in JSON, and judges nothing. It runs in a page: see `browser/driver.mjs`.
 */
import {
  Client,
  type ClientState,
  type Cursor,
  type EventItem,
  type Focus,
  type From,
  type GapItem,
  LanecastError,
  type Page,
  positionText,
  type PublishMessage,
  type SignalItem,
  type Subscription,
  type TransportChoice,
} from '../src/index.js';

/** What the suite says, which has no types here. */
type Words = Record<string, any>;

const LACKS: Record<string, string> = {
  outbox_file: 'a page has no files; its outbox is in memory',
  positions_file: 'a page has no files; the application stores positions',
  process: 'a page is not killed like a process',
  extra_root: 'the browser decides whom to trust',
  certificate_hash: 'the node names its certificate in its description',
  refresh_token: 'not offered; tokens are refreshed by themselves',
  flush: 'not offered; every publish is a promise',
  replicated: 'not offered',
  outbox_ttl: 'of one publish: not offered',
  queued: 'the outbox is in memory, and a publish is in it at once',
};

class Driver {
  #client: Client | undefined;
  /** Counts clients, so that nothing of a former one is reported. */
  #life = 0;
  readonly #subscriptions = new Map<string, { subscription: Subscription; acknowledge?: (command: number) => void }>();
  readonly #asks = new Map<number, { give: (token: string) => void; refuse: (error: Error) => void }>();
  #stop = new AbortController();
  readonly #socket: WebSocket;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    const lacks = Object.entries(LACKS).map(([what, why]) => ({ what, why }));
    const transports = ['websocket', ...('WebTransport' in globalThis ? ['webtransport'] : [])];
    this.#say(0, 'ready', { sdk: 'lanecast-web', version: '0.1.0', transports, lacks });
    socket.onmessage = ({ data }) => this.#take(JSON.parse(data as string) as Words);
  }

  #say(command: number, kind: string, what: Words = {}): void {
    this.#socket.send(JSON.stringify({ command, [kind]: what }));
  }

  /** Reports for the client of now, as long as it is the one. */
  get #told(): (command: number, kind: string, what?: Words) => void {
    const life = this.#life;
    return (command, kind, what) => life === this.#life && this.#say(command, kind, what);
  }

  #take({ id, ...rest }: Words): void {
    const [[name = '', what = {}] = []] = Object.entries(rest) as [string, Words][];
    const told = this.#told;
    this.#obey(id as number, name, what).then(
      (done) => done && this.#say(id as number, 'done'),
      (error: unknown) => told(id as number, 'failed', failure(error)),
    );
  }

  /** True: done; false: what was begun reports by itself. */
  async #obey(id: number, name: string, what: Words): Promise<boolean> {
    if (name === 'connect') return this.#connect(what);
    if (name === 'giveToken') return (this.#asks.get(what.ask)?.give(what.token), true);
    if (name === 'refuseToken') return (this.#asks.get(what.ask)?.refuse(new Error(what.detail)), true);
    const client = this.#client;
    if (!client) throw new Error('there is no client');
    const room = client.room(what.room ?? '');
    const active = this.#subscriptions.get(what.room);
    const told = this.#told;
    switch (name) {
      case 'subscribe':
        return this.#subscribe(id, client, what);
      case 'acknowledge': {
        const { acknowledge } = active ?? {};
        if (active) delete active.acknowledge;
        acknowledge?.(id);
        return !acknowledge;
      }
      case 'unsubscribe':
        active?.subscription.close();
        return this.#subscriptions.delete(what.room);
      case 'publish': {
        const receipt = await room.publish({ ...message(what), lane: what.lane || 'normal', delivery: what.transient ? 'transient' : 'durable' });
        told(id, 'stored', { ...receipt });
        return false;
      }
      case 'signal':
        room.signal({ ...message(what), key: what.key, clear: what.clear });
        return true;
      case 'history': {
        const [epoch, order] = ((what.cursor?.text as string) || '').split('-').map(Number);
        const cursor = order === undefined ? {} : { cursor: { epoch, order } as Cursor };
        const direction = what.forward ? 'forward' : 'backward';
        told(id, 'historyPage', page(await room.history({ direction, limit: what.limit, lanes: what.lanes, ...cursor })));
        return false;
      }
      case 'focus':
        room.focus(what.level as Focus);
        return true;
      case 'networkChanged':
        client.networkChanged();
        return true;
      case 'enteredBackground':
        client.enteredBackground();
        return true;
      case 'enteredForeground':
        client.enteredForeground();
        return true;
      case 'shutdown':
        client.close();
        this.#stop.abort();
        // Its last state is told in a microtask.
        await null;
        this.#life++;
        this.#client = undefined;
        this.#subscriptions.clear();
        return true;
      default:
        throw new LanecastError(0, 'unsupported', `this SDK has no ${name}`, 'stop');
    }
  }

  #connect(what: Words): boolean {
    const told = this.#told;
    let asks = 0;
    const ask = ({ refused }: { refused: boolean }) =>
      new Promise<string>((give, refuse) => {
        this.#asks.set(++asks, { give, refuse });
        told(0, 'tokenWanted', { ask: asks, refused });
      });
    const bounds = { items: what.outboxItemsMax, bytes: what.outboxBytesMax, ttlMs: what.outboxTtlMs } as Record<string, number>;
    const client = new Client({
      url: what.url,
      token: what.asksForTokens ? ask : what.token,
      transport: (what.transport || 'auto') as TransportChoice,
      device: what.device,
      app: { name: what.app, version: what.appVersion },
      outbox: Object.fromEntries(Object.entries(bounds).filter(([, bound]) => bound)),
    });
    this.#stop = new AbortController();
    this.#client = client;
    const state = (now: ClientState) => told(0, 'state', stateOf(now));
    client.onState(state);
    state(client.state);
    // What comes of it is told by the states.
    client.connect().catch(() => {});
    return true;
  }

  async #subscribe(id: number, client: Client, what: Words): Promise<boolean> {
    const told = this.#told;
    const room = client.room(what.room);
    if (what.start === 'stored') throw new LanecastError(0, 'unsupported', 'this SDK keeps no positions', 'stop');
    const starts: Record<string, From> = {
      ...{ beginning: 'beginning', count: { count: what.back }, duration: { durationMs: what.back }, position: { position: what.position } },
    };
    const signals = what.withSignals ? room.signals({ signal: this.#stop.signal }) : undefined;
    const subscription = room.subscribe({ from: starts[what.start] ?? 'live' });
    const active: { subscription: Subscription; acknowledge?: (command: number) => void } = { subscription };
    this.#subscriptions.set(room.name, active);
    this.#say(id, 'done');
    const state = () => told(0, 'roomState', { room: room.name, ...roomStateOf(subscription) });
    subscription.onState(state);
    state();
    void (async () => {
      for await (const item of signals ?? []) told(0, 'signalChange', signalOf(item));
    })().catch(() => {});
    void (async () => {
      for await (const item of subscription) {
        told(0, item.kind, item.kind === 'event' ? eventOf(item) : gapOf(item));
        const command = what.onCommand ? await new Promise<number>((resolve) => (active.acknowledge = resolve)) : 0;
        subscription.take();
        told(0, 'position', { room: room.name, position: subscription.position && positionText(subscription.position) });
        if (command) told(command, 'done');
      }
    })().catch(() => {
      // A subscription that the node ended throws; its state has said so.
    });
    return false;
  }
}

function message(what: Words) {
  const data = what.body?.data as string | undefined;
  const body = data === undefined ? { text: (what.body?.text ?? '') as string } : { data: Uint8Array.from(atob(data), (one) => one.charCodeAt(0)) };
  const { type, key, contentType, headers, ttlMs } = what;
  return { type, key, contentType, headers, ttlMs, ...body } as PublishMessage;
}

const bodyOf = ({ text, data }: { text?: string | undefined; data?: Uint8Array | undefined }): Words =>
  data ? { data: btoa(String.fromCharCode(...data)) } : text === undefined ? {} : { text };

function failure(error: unknown): Words {
  const { name, code = 0, retryable = false, detail = String(error) } = error as LanecastError;
  return { kind: name, code, codeName: code ? name : '', retryable, detail };
}

function stateOf(state: ClientState): Words {
  const cause = 'cause' in state ? state.cause : undefined;
  return { name: state.name, code: cause?.code ?? 0, codeName: cause?.code ? cause.name : '', detail: cause?.detail ?? '' };
}

function roomStateOf({ state }: Subscription): Words {
  const code = state.name === 'ended' ? (state.error?.code ?? 0) : 0;
  return { name: state.name.replace('-', '_'), code };
}

function eventOf({ kind: _, from, text, data, ...event }: EventItem): Words {
  const body = bodyOf({ text, data });
  return { ...event, body, user: from.user, service: from.service, instance: from.instance };
}

function gapOf({ kind: _, lane, to, count, cause, ...gap }: GapItem): Words {
  return { ...gap, lane: lane ?? '', to: to ?? 0, count: gap.from ? 0 : (count ?? 0), cause: cause.replace('-', '_') };
}

function signalOf({ room, state, type, key, from, ...item }: SignalItem): Words {
  const sender = { user: from.user, instance: from.instance };
  return { room, ...sender, type, key, body: bodyOf(item), gone: state !== 'live', expired: state === 'expired' };
}

function page({ events, gaps, next, head }: Page): Words {
  const told = { events: events.map(eventOf), gaps: gaps.map(gapOf), head: head ? positionText(head) : '' };
  return next ? { ...told, next: { text: `${next.epoch}-${next.order}` } } : told;
}

/** Dials the suite; resolves when the suite hangs up. */
export function drive(url: string): Promise<void> {
  const socket = new WebSocket(url);
  socket.onopen = () => void new Driver(socket);
  return new Promise((resolve) => (socket.onclose = () => resolve()));
}
