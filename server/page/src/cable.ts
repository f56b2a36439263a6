/**
 * Transports that can be cut: from that moment neither side hears anything more, as when a cable is pulled. What was on
 * its way in either direction is lost to the client, which only learns that the connection is gone.
 */
import type { SocketConstructor, WebTransportConstructor } from '@lanecast/client';

/** Makes transports and cuts those in use; while two race, both. */
export class Cable {
  private readonly plugs = new Set<() => void>();

  /** Cuts the present connection; false: there is none. */
  cut(): boolean {
    const plugs = [...this.plugs];
    this.plugs.clear();
    for (const pull of plugs) pull();
    return plugs.length > 0;
  }

  /** The WebSocket to hand to the client. */
  get socket(): SocketConstructor {
    const { plugs } = this;
    return class extends WebSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        const pull = () => {
          const { onclose } = this;
          this.onmessage = this.onclose = this.onerror = null;
          this.close();
          onclose?.call(this, new CloseEvent('close', { code: 1006 }));
        };
        plugs.add(pull);
        this.addEventListener('close', () => plugs.delete(pull));
      }
    } as unknown as SocketConstructor;
  }

  /** The WebTransport to hand to the client; undefined: the browser has none. */
  get webTransport(): WebTransportConstructor | undefined {
    const { plugs } = this;
    if (!('WebTransport' in window)) return undefined;
    return class extends WebTransport {
      constructor(url: string, options?: WebTransportOptions) {
        super(url, options);
        const pull = () => this.close();
        plugs.add(pull);
        const gone = () => plugs.delete(pull);
        this.closed.then(gone, gone);
      }
    } as unknown as WebTransportConstructor;
  }
}
