/** Latency by lane: a row each, with the last value, the median and what came before as a line. */
import { LANES, type LaneName } from '@lanecast/client';
import { duration, make, setText } from './dom.js';

/** Values that a line shows. */
const KEPT = 48;
/** Few values do not fill the line. */
const SLOTS_MIN = 10;
const WIDTH = 120;
const HEIGHT = 28;

interface Row {
  values: number[];
  last: HTMLElement;
  median: HTMLElement;
  line: SVGPolylineElement;
  dot: SVGPathElement;
}

/** The instrument. */
export class Lanes {
  private readonly rows = new Map<LaneName, Row>();
  private readonly sent = new Map<string, number>();
  private count = 0;

  constructor(into: HTMLElement) {
    for (const lane of LANES) {
      const last = make('span', 'last', '–');
      const median = make('span', 'median', 'nothing sent');
      last.dataset['testid'] = `latency-${lane}`;
      const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
      svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
      svg.setAttribute('preserveAspectRatio', 'none');
      svg.setAttribute('aria-hidden', 'true');
      const line = document.createElementNS(svg.namespaceURI, 'polyline') as SVGPolylineElement;
      const dot = document.createElementNS(svg.namespaceURI, 'path') as SVGPathElement;
      svg.append(line, dot);
      const name = make('span', 'lane-name', lane);
      into.append(make('div', `lane ${lane}`, name, svg as unknown as HTMLElement, make('span', 'numbers', last, median)));
      this.rows.set(lane, { values: [], last, median, line, dot });
    }
  }

  /** A publish starts: the header by which its event is known again. */
  begin(): Record<string, string> {
    const n = `${++this.count}`;
    this.sent.set(n, performance.now());
    // What never comes back is forgotten.
    for (const first of this.sent.keys()) if (this.sent.size > 1000) this.sent.delete(first);
    return { n };
  }

  /** An own event is back; its latency, if it was sent by this page. */
  end(lane: LaneName, headers: Readonly<Record<string, string>>): number | undefined {
    const n = headers['n'] ?? '';
    const since = this.sent.get(n);
    this.sent.delete(n);
    const row = this.rows.get(lane);
    if (since === undefined || !row) return undefined;
    const ms = performance.now() - since;
    row.values.push(ms);
    if (row.values.length > KEPT) row.values.shift();
    draw(row);
    return ms;
  }
}

function draw({ values, last, median, line, dot }: Row): void {
  const sorted = [...values].sort((one, other) => one - other);
  setText(last, duration(values.at(-1) ?? 0));
  setText(median, `p50 ${duration(sorted[Math.floor(sorted.length / 2)] ?? 0)}`);
  // Logarithmic: a lane that waits for seconds and one that takes a millisecond are both to be seen.
  const height = (ms: number) => HEIGHT - 3 - (Math.min(4, Math.max(0, Math.log10(Math.max(1, ms)))) / 4) * (HEIGHT - 6);
  const slots = Math.max(SLOTS_MIN, values.length);
  const step = (WIDTH - 6) / (slots - 1);
  const points = values.map((ms, index) => [3 + (index + slots - values.length) * step, height(ms)] as const);
  line.setAttribute('points', points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(' '));
  const [x, y] = points.at(-1) ?? [0, 0];
  // A stroke without length: the line is stretched to the column, its end must stay round.
  dot.setAttribute('d', `M${x.toFixed(1)} ${y.toFixed(1)}h0`);
}
