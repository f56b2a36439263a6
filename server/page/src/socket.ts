/**
 * A WebSocket that can be cut: from that moment neither side hears anything more, as when a cable is pulled. What was on
 * its way in either direction is lost to the client, which only learns that the connection is gone.
 */
import type { SocketConstructor, SocketLike } from '@lanecast/client';

/** Makes sockets and cuts the one in use. */
export class Cable {
  private current: (SocketLike & { cut(): void }) | undefined;

  /** Cuts the present connection; false: there is none. */
  cut(): boolean {
    const { current } = this;
    this.current = undefined;
    current?.cut();
    return current !== undefined;
  }

  /** The WebSocket to hand to the client. */
  get socket(): SocketConstructor {
    const plug = (socket: SocketLike & { cut(): void }) => (this.current = socket);
    return class extends WebSocket {
      constructor(url: string, protocols: string[]) {
        super(url, protocols);
        plug(this as unknown as SocketLike & { cut(): void });
      }

      cut(): void {
        const { onclose } = this;
        this.onmessage = this.onclose = this.onerror = null;
        this.close();
        onclose?.call(this, new CloseEvent('close', { code: 1006 }));
      }
    } as unknown as SocketConstructor;
  }
}
