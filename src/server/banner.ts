/**
 * What the server says once it listens: a few lines for a person at a terminal, one JSON line for a program. Pure.
 */

import type { ServerConfig } from "./config.ts";
import manifest from "../../package.json" with { type: "json" };

export interface Listening {
  readonly url: string;
  /** Absolute; null when everything is in memory. */
  readonly dataDir: string | null;
  readonly pid: number;
}

export function banner(config: ServerConfig, listening: Listening, forPerson: boolean): string {
  const durability = listening.dataDir === null ? "none" : config.durability;
  const open = config.loopbackOnly ? "none (loopback only)" : "none (open to whoever reaches the port)";
  const auth = config.auth?.kind ?? open;
  if (!forPerson) {
    const { url, dataDir, pid } = listening;
    return `${JSON.stringify({ event: "listening", url, dataDir, durability, auth, version: manifest.version, pid })}\n`;
  }
  return [
    `streams-server ${manifest.version}`,
    `  url         ${listening.url}`,
    `  data        ${listening.dataDir ?? "in memory only: gone when this process ends"}`,
    `  durability  ${DURABILITY_MEANS[durability]}`,
    `  auth        ${auth}`,
    "",
  ].join("\n");
}

const DURABILITY_MEANS = {
  fsync: "fsync: what was acknowledged survives a power cut",
  os: "os: what was acknowledged survives a crash of the server, not a power cut",
  none: "none: nothing survives this process",
} as const;
