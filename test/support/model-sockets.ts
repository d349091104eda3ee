/**
 * A streams server in this process, for tests of a client: plain reads, long-polls and WebSockets over lists of JSON texts.
 * Owns its streams and everything it was asked; what goes wrong is said before. Offsets are `o` and a number of records.
 * Time passes by timers of 0 ms, so nothing is answered in the turn it was asked in, as over a network.
 */

import type { SocketConstructor, SocketEvent, SocketLike } from "../../src/client/client.ts";

/** What becomes of one connection. `cut`: it breaks after that many messages of the server. */
export type Fate = "refused" | { readonly cut: number } | null;

export interface Asked {
  readonly type: string;
  readonly id: string;
  readonly stream?: string;
  readonly offset?: string;
}

interface ModelStream {
  readonly records: string[];
  closed: boolean;
}

interface Subscription {
  readonly stream: ModelStream;
  at: number;
  isTold: boolean;
}

type Listener = (event: SocketEvent) => void;

export interface ModelOptions {
  /** Of the connections, in the order in which they come; all others are well. */
  readonly fates?: readonly Fate[];
  readonly heartbeatMs?: number;
  /** Called with what is on its way, before the model hears it. */
  readonly onAsked?: (asked: Asked) => void;
  /** Code of the refusal of a subscription. */
  readonly refuses?: (asked: Asked) => string | null;
  /** Answer to a request over HTTP in place of the model's own. */
  readonly intercept?: (url: URL) => Response | null;
}

const soon = (act: () => void): void => void setTimeout(act, 0);

export class ModelSockets {
  readonly WebSocket: SocketConstructor;
  readonly sockets: ModelSocket[] = [];
  readonly asked: Asked[] = [];
  readonly requests: URL[] = [];
  readonly options: ModelOptions;
  readonly #streams = new Map<string, ModelStream>();
  readonly #fates: Fate[];

  constructor(options: ModelOptions = {}) {
    this.options = options;
    this.#fates = [...(options.fates ?? [])];
    const { sockets } = this;
    const connect = (url: string): ModelSocket => new ModelSocket(this, url, this.#fates.shift() ?? null);
    this.WebSocket = function (url: string) {
      const socket = connect(url);
      sockets.push(socket);
      return socket;
    } as unknown as SocketConstructor;
  }

  stream(name: string): ModelStream {
    const known = this.#streams.get(name) ?? { records: [], closed: false };
    this.#streams.set(name, known);
    return known;
  }

  append(name: string, ...values: readonly unknown[]): void {
    this.stream(name).records.push(...values.map((value) => JSON.stringify(value)));
    this.#moved();
  }

  close(name: string): void {
    this.stream(name).closed = true;
    this.#moved();
  }

  /** Ends all subscriptions to a stream, with an error. */
  drop(name: string): void {
    for (const socket of this.open()) socket.drop(this.stream(name));
  }

  /** Connections that are not closed. */
  open(): ModelSocket[] {
    return this.sockets.filter(({ isOpen }) => isOpen);
  }

  /** Everything that is not a WebSocket. A long-poll is answered at once. */
  readonly fetch = (address: string): Promise<Response> => {
    const url = new URL(address);
    this.requests.push(url);
    const answer = this.options.intercept?.(url) ?? null;
    if (answer !== null) return Promise.resolve(answer);
    if (url.pathname === "/v1/ws") return Promise.resolve(new Response(null, { status: 426 }));
    const { records, closed } = this.stream(decodeURIComponent(url.pathname.replace("/v1/stream/", "")));
    const offset = url.searchParams.get("offset") ?? "o0";
    const from = offset === "now" ? records.length : Number(offset.replace("-1", "o0").slice(1));
    const headers = {
      "content-type": "application/json",
      "stream-next-offset": `o${records.length}`,
      "stream-up-to-date": "true",
      ...(closed ? { "stream-closed": "true" } : {}),
    };
    return Promise.resolve(new Response(`[${records.slice(from).join(",")}]`, { headers }));
  };

  #moved(): void {
    for (const socket of this.open()) socket.pump();
  }
}

export class ModelSocket implements SocketLike {
  readonly url: string;
  isOpen = true;
  readonly #model: ModelSockets;
  readonly #fate: Fate;
  readonly #listeners: Record<string, Listener[]> = { message: [], error: [], close: [] };
  readonly #subscriptions = new Map<string, Subscription>();
  #said = 0;

  constructor(model: ModelSockets, url: string, fate: Fate) {
    this.#model = model;
    this.#fate = fate;
    this.url = url;
    soon(() => {
      if (fate === "refused") {
        this.#tell("error", {});
        return this.cut();
      }
      this.#say({ type: "connected", clientId: "c1", heartbeatMs: model.options.heartbeatMs ?? 60_000 });
    });
  }

  addEventListener(type: "message" | "error" | "close", listener: Listener): void {
    this.#listeners[type]?.push(listener);
  }

  send(text: string): void {
    const asked = JSON.parse(text) as Asked;
    this.#model.asked.push(asked);
    this.#model.options.onAsked?.(asked);
    soon(() => this.#hear(asked));
  }

  close(): void {
    this.isOpen = false;
  }

  /** Breaks, from the server's side. */
  cut(): void {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.#tell("close", { code: 1006, reason: "" });
  }

  /** Sends what the model has for its subscriptions, two records a message. */
  pump(): void {
    for (const [id, subscription] of this.#subscriptions) {
      const { stream } = subscription;
      while (this.isOpen && subscription.at < stream.records.length) {
        const records = stream.records.slice(subscription.at, subscription.at + 2);
        subscription.at += records.length;
        const place = { offset: `o${subscription.at}`, ...this.#end(subscription) };
        const head = JSON.stringify({ type: "records", id, ...place }).slice(0, -1);
        this.#sayText(`${head},"records":[${records.join(",")}]}`);
      }
      if (!stream.closed) continue;
      const offset = `o${subscription.at}`;
      if (!subscription.isTold) this.#say({ type: "position", id, offset, upToDate: true, closed: true });
      this.#subscriptions.delete(id);
      this.#say({ type: "unsubscribed", id, offset, reason: "closed" });
    }
  }

  drop(stream: ModelStream): void {
    for (const [id, subscription] of this.#subscriptions) {
      if (subscription.stream !== stream) continue;
      this.#subscriptions.delete(id);
      const error = { code: "gone", message: "gone" };
      this.#say({ type: "unsubscribed", id, offset: `o${subscription.at}`, reason: "error", error });
    }
  }

  #hear(asked: Asked): void {
    if (!this.isOpen) return;
    const { type, id } = asked;
    const known = this.#subscriptions.get(id);
    const refuse = (code: string): void => this.#say({ type: "error", id, error: { code, message: code } });
    if (type === "unsubscribe") {
      if (known === undefined) return refuse("subscription-unknown");
      this.#subscriptions.delete(id);
      return this.#say({ type: "unsubscribed", id, offset: `o${known.at}`, reason: "request" });
    }
    const code = this.#model.options.refuses?.(asked) ?? null;
    if (known !== undefined) return refuse("subscription-exists");
    if (code !== null) return refuse(code);
    const stream = this.#model.stream(asked.stream ?? "");
    const subscription = { stream, at: Number((asked.offset ?? "o0").slice(1)), isTold: false };
    this.#subscriptions.set(id, subscription);
    this.#say({
      type: "subscribed",
      id,
      offset: `o${subscription.at}`,
      ...this.#end(subscription),
      stream: asked.stream,
      contentType: "application/json",
    });
    this.pump();
  }

  #end(subscription: Subscription): object {
    if (subscription.at < subscription.stream.records.length) return {};
    subscription.isTold = subscription.stream.closed;
    return subscription.isTold ? { upToDate: true, closed: true } : { upToDate: true };
  }

  #say(message: object): void {
    this.#sayText(JSON.stringify(message));
  }

  #sayText(data: string): void {
    if (!this.isOpen) return;
    this.#tell("message", { data });
    if (this.#fate !== null && this.#fate !== "refused" && ++this.#said >= this.#fate.cut) this.cut();
  }

  #tell(type: string, event: SocketEvent): void {
    for (const listener of this.#listeners[type] ?? []) listener(event);
  }
}
