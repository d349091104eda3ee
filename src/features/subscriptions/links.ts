/** The streams of one subscription: how far each was worked off, and where it ends. Knows at any time which have news. */

export interface Link {
  /** The incarnation of the stream. */
  readonly streamId: number;
  readonly name: string;
  /** Seq after the last record that was worked off. */
  acked: number;
  /** Seq after the last record. */
  tail: number;
  /** Named by the client, and matched by the pattern: it is linked while either holds. */
  isExplicit: boolean;
  isGlob: boolean;
}

export class Links {
  readonly #byId = new Map<number, Link>();
  readonly #byName = new Map<string, Link>();
  readonly #pending = new Set<Link>();
  #lag = 0;

  get size(): number {
    return this.#byId.size;
  }

  get hasPending(): boolean {
    return this.#pending.size > 0;
  }

  get pendingStreams(): number {
    return this.#pending.size;
  }

  get(streamId: number): Link | undefined {
    return this.#byId.get(streamId);
  }

  byName(name: string): Link | undefined {
    return this.#byName.get(name);
  }

  /** As they are now. */
  ids(): readonly number[] {
    return [...this.#byId.keys()];
  }

  /** So many as they are now, those with news first. */
  first(limit: number): readonly { readonly link: Link; readonly acked: number; readonly tail: number }[] {
    const found: { link: Link; acked: number; tail: number }[] = [];
    for (const link of this.#inOrder()) {
      if (found.length >= limit) break;
      found.push({ link, acked: link.acked, tail: link.tail });
    }
    return found;
  }

  *#inOrder(): Generator<Link> {
    yield* this.#pending;
    for (const link of this.#byId.values()) if (!this.#pending.has(link)) yield link;
  }

  /** Records that were not worked off. */
  get lag(): number {
    return this.#lag;
  }

  add(link: Link): void {
    this.#byId.set(link.streamId, link);
    this.#byName.set(link.name, link);
    this.#note(link);
  }

  moveTail(link: Link, tail: number): void {
    this.#lag -= lagOf(link);
    link.tail = Math.max(link.tail, tail);
    this.#note(link);
  }

  ack(link: Link, acked: number): void {
    this.#lag -= lagOf(link);
    link.acked = Math.max(link.acked, acked);
    this.#note(link);
  }

  remove(streamId: number): Link | undefined {
    const link = this.#byId.get(streamId);
    if (link === undefined) return undefined;
    this.#byId.delete(streamId);
    if (this.#byName.get(link.name) === link) this.#byName.delete(link.name);
    this.#pending.delete(link);
    this.#lag -= lagOf(link);
    return link;
  }

  #note(link: Link): void {
    this.#lag += lagOf(link);
    if (link.tail > link.acked) this.#pending.add(link);
    else this.#pending.delete(link);
  }
}

function lagOf({ acked, tail }: Link): number {
  return Math.max(0, tail - acked);
}
