/** A fake node behind real HTTP and WebSocket, which says in its document what else it serves. */
import { once } from 'node:events';
import { createServer } from 'node:http';
import { type AddressInfo, Socket as TcpSocket } from 'node:net';
import type { TestContext } from 'node:test';
import { type WebSocket as Socket, WebSocket, WebSocketServer } from 'ws';
import { type ClientOptions, Client, connect, type SocketConstructor } from '../../src/index.js';
import { FakeNode, type Peer, text } from './node.js';

export const NodeWebSocket = WebSocket as unknown as SocketConstructor;

export class Server {
  readonly node = new FakeNode(() => Date.now());
  readonly sockets = new Map<Socket, Peer>();
  /** `/.well-known/lanecast`; undefined: there is none. */
  document: unknown;
  /** How often it was asked for. */
  asked = 0;
  private readonly http = createServer((request, answer) => {
    if (request.url !== '/.well-known/lanecast' || this.document === undefined) return answer.writeHead(404).end();
    this.asked++;
    answer.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(this.document));
  });
  private readonly server = new WebSocketServer({ noServer: true, handleProtocols: () => 'lanecast.v1' });
  /** The path at which the WebSocket is. */
  path = '/v1/connect';

  static async start(context: TestContext): Promise<Server> {
    const made = new Server();
    made.http.on('upgrade', (request, socket, head) => {
      if (request.url !== made.path) return (socket as TcpSocket).destroy();
      made.server.handleUpgrade(request, socket, head, (each) => made.accept(each));
    });
    made.http.listen(0, '127.0.0.1');
    await once(made.http, 'listening');
    context.after(() => {
      made.cut();
      made.http.close();
      made.http.closeAllConnections();
    });
    return made;
  }

  get url(): string {
    return `http://127.0.0.1:${(this.http.address() as AddressInfo).port}/`;
  }

  private accept(socket: Socket): void {
    const peer = this.node.connect();
    this.sockets.set(socket, peer);
    socket.on('message', (data: Buffer) => {
      this.node.receive(peer, data);
      this.pump();
    });
    socket.on('close', () => {
      this.node.disconnect(peer);
      this.sockets.delete(socket);
    });
  }

  pump(): void {
    for (const [socket, peer] of this.sockets) {
      for (let packet = this.node.take(peer, 4096); packet; packet = this.node.take(peer, 4096)) socket.send(packet);
      if (peer.closed) socket.close(peer.closed);
    }
  }

  append(room: string, body: string): void {
    this.node.append(room, 'normal', text(body));
    this.pump();
  }

  /** Breaks every WebSocket without a goodbye. */
  cut(): void {
    for (const socket of this.sockets.keys()) socket.terminate();
  }

  async client(context: TestContext, options: Partial<ClientOptions> = {}): Promise<Client> {
    const client = await connect({ url: this.url, token: 'dev:ann', WebSocket: NodeWebSocket, ...options });
    context.after(() => client.close());
    return client;
  }
}

/** Waits until something holds. */
export async function until(condition: () => boolean, what: string, limitMs = 5000): Promise<void> {
  const end = Date.now() + limitMs;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((done) => setTimeout(done, 2));
  }
}
