/** Who is here and was seen lately, who types, and where the pointers of others are: all of it from signals. */
import type { Room, SignalItem } from '@lanecast/client';
import { byId, hueOf, make, setText } from './dom.js';

const HERE_TTL_MS = 20_000;
const HERE_EVERY_MS = 8_000;
const TYPING_TTL_MS = 4_000;
const TYPING_EVERY_MS = 2_000;
const CURSOR_TTL_MS = 6_000;
/** People who left stay in the list this long. */
const SEEN_MS = 10 * 60_000;
const SEEN_MAX = 12;

interface Person {
  tabs: Set<string>;
  seenAt: number;
}

/** The part of the page that signals move. */
export class People {
  private readonly people = new Map<string, Person>();
  private readonly typing = new Map<string, string>();
  private readonly cursors = new Map<string, HTMLElement>();
  private typedAt = -Infinity;

  constructor(
    private readonly room: Room,
    private readonly user: string,
    private readonly instance: string,
    private readonly stage: HTMLElement,
  ) {}

  /** Reads signals and sends our own until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const options = { signal };
    const here = () => this.room.signal({ type: 'here', key: 'here', ttlMs: HERE_TTL_MS });
    here();
    const timers = [setInterval(here, HERE_EVERY_MS), setInterval(() => this.drawPeople(), 5_000)];
    signal.addEventListener('abort', () => timers.forEach(clearInterval));
    const { stage } = this;
    stage.addEventListener('pointermove', (event) => this.point(event), options);
    stage.addEventListener('pointerleave', () => this.clear('cursor'), options);
    window.addEventListener('pagehide', () => this.clear('here'), options);
    this.drawPeople();
    for await (const item of this.room.signals(options)) this.take(item);
  }

  /** The user typed into the field. */
  typed(text: string): void {
    if (!text) return this.clear('typing');
    const now = performance.now();
    if (now - this.typedAt < TYPING_EVERY_MS) return;
    this.typedAt = now;
    this.room.signal({ type: 'typing', key: 'typing', ttlMs: TYPING_TTL_MS });
  }

  private clear(type: 'typing' | 'cursor' | 'here'): void {
    if (type === 'typing') this.typedAt = -Infinity;
    this.room.signal({ type, key: type, clear: true });
  }

  private point(event: PointerEvent): void {
    const box = this.stage.getBoundingClientRect();
    const share = (at: number, size: number) => Math.round(Math.min(1, Math.max(0, at / size)) * 1000) / 1000;
    const text = `${share(event.clientX - box.left, box.width)} ${share(event.clientY - box.top, box.height)}`;
    this.room.signal({ type: 'cursor', key: 'cursor', ttlMs: CURSOR_TTL_MS, text });
  }

  private take(item: SignalItem): void {
    const { user, instance } = item.from;
    const live = item.state === 'live';
    if (instance === this.instance) return;
    if (item.type === 'here') {
      const person = this.people.get(user) ?? { tabs: new Set(), seenAt: 0 };
      person.seenAt = Date.now();
      if (live) person.tabs.add(instance);
      else person.tabs.delete(instance);
      this.people.set(user, person);
      this.drawPeople();
    } else if (item.type === 'typing') {
      if (live) this.typing.set(instance, user);
      else this.typing.delete(instance);
      this.drawTyping();
    } else if (item.type === 'cursor') {
      this.drawCursor(instance, user, live ? (item.text ?? '') : '');
    }
  }

  private drawPeople(): void {
    const now = Date.now();
    for (const [user, { tabs, seenAt }] of this.people) {
      if (!tabs.size && (now - seenAt > SEEN_MS || this.people.size > SEEN_MAX)) this.people.delete(user);
    }
    const others = [...this.people].filter(([user]) => user !== this.user);
    others.sort(([, one], [, other]) => other.tabs.size - one.tabs.size || other.seenAt - one.seenAt);
    const chips = others.map(([user, { tabs, seenAt }]) => chip(user, tabs.size ? 'here' : ago(now - seenAt), tabs.size > 0));
    const list = byId('people');
    list.replaceChildren(chip(this.user, 'you', true), ...chips);
    if (!others.length) list.append(make('span', 'alone', 'Nobody else yet'));
  }

  private drawTyping(): void {
    const names = [...new Set(this.typing.values())];
    const verb = names.length === 1 ? 'is typing' : 'are typing';
    setText(byId('typing'), names.length ? `${names.slice(0, 3).join(', ')} ${verb}` : '');
  }

  private drawCursor(instance: string, user: string, text: string): void {
    const known = this.cursors.get(instance);
    const [x, y] = text.split(' ').map(Number);
    if (x === undefined || y === undefined || Number.isNaN(x + y) || !text) {
      known?.remove();
      this.cursors.delete(instance);
      return;
    }
    const cursor = known ?? make('div', `cursor ${hueOf(user)}`, make('i'), make('span', '', user));
    cursor.dataset['testid'] = 'cursor';
    cursor.style.setProperty('--x', `${x * 100}%`);
    cursor.style.setProperty('--y', `${y * 100}%`);
    if (known) return;
    this.cursors.set(instance, cursor);
    byId('cursors').append(cursor);
  }
}

function chip(user: string, note: string, here: boolean): HTMLElement {
  const face = make('span', 'face', [...user][0]?.toUpperCase() ?? '?');
  face.setAttribute('aria-hidden', 'true');
  const made = make('span', `chip ${hueOf(user)} ${here ? 'here' : 'gone'}`, face, make('span', 'chip-name', user), make('small', '', note));
  made.dataset['testid'] = 'person';
  return made;
}

function ago(ms: number): string {
  return ms < 60_000 ? 'seen just now' : `seen ${Math.round(ms / 60_000)} min ago`;
}
