/** The choice of the transport, and what is in use. A new choice is a new connection, which resumes. */
import type { Client, TransportChoice, TransportName } from '@lanecast/client';
import { byId, setText } from './dom.js';

const CHOICE_KEY = 'lanecast.transport';

const NAMES: Record<TransportName, string> = { webtransport: 'WebTransport', websocket: 'WebSocket' };
const SENTENCES: Record<TransportName, string> = {
  webtransport: 'A stream for each lane, datagrams for cursors.',
  websocket: 'One pipe that the lanes share, the higher first.',
};

/** Why this page cannot choose WebTransport; undefined: it can. */
function obstacle(served: boolean): string | undefined {
  if (!served) return 'This node serves no WebTransport.';
  if (!isSecureContext) return 'WebTransport needs https, or a page of this machine.';
  return 'WebTransport' in window ? undefined : 'This browser has no WebTransport.';
}

const isChoice = (text: string | null): text is TransportChoice => text === 'auto' || text === 'webtransport' || text === 'websocket';

/** The instrument. */
export class Transports {
  choice: TransportChoice = 'auto';
  private readonly obstacle: string | undefined;
  private readonly fields = [...document.querySelectorAll<HTMLInputElement>('input[name=transport]')];

  /** `changed` is called after a new choice. */
  constructor(served: boolean, changed: () => void) {
    this.obstacle = obstacle(served);
    const wanted = new URLSearchParams(location.search).get('transport') ?? sessionStorage.getItem(CHOICE_KEY);
    if (isChoice(wanted) && !(wanted === 'webtransport' && this.obstacle)) this.choice = wanted;
    for (const field of this.fields) {
      field.checked = field.value === this.choice;
      field.disabled = field.value === 'webtransport' && this.obstacle !== undefined;
      field.onchange = () => {
        if (!isChoice(field.value)) return;
        this.choice = field.value;
        sessionStorage.setItem(CHOICE_KEY, this.choice);
        changed();
      };
    }
  }

  draw(client: Client): void {
    const { transport } = client;
    const why = this.obstacle && this.choice === 'auto' ? ` ${this.obstacle}` : '';
    setText(byId('in-use'), transport ? NAMES[transport] : 'no connection');
    setText(byId('in-use-hint'), transport ? SENTENCES[transport] + why : '');
    setText(byId('via'), transport ? NAMES[transport] : '');
  }
}
