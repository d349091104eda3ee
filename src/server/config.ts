/**
 * Every setting of the server, once: its type, default and meaning, in one schema. The flags and `--help`, the list of
 * environment variables and the table in the docs are generated from it.
 * Precedence: flag, then environment, then config file, then default. A name nobody knows is an error, never ignored.
 */

import { Result } from "better-result";
import { z } from "zod";
import { authConflicts, authSettings, authStrategy, clientRates } from "./auth-settings.ts";
import type { ClientRates } from "../http/client-limits.ts";
import { isJsonObject, type JsonObject } from "../kit/json-object.ts";
import { nearestName } from "./nearest-name.ts";
import type { OpenOptions } from "./open.ts";
import { docs } from "./setting-docs.ts";
import { baseUrl, choice, duration, origins, size, streamName, text, toggle, wholeNumber } from "./setting-values.ts";

const schema = z.strictObject({
  host: text.prefault("127.0.0.1").register(docs, {
    placeholder: "address",
    about: "Address to listen on. Anything but loopback needs --auth, or --no-auth.",
  }),
  port: wholeNumber(0, 65_535).prefault(4437).register(docs, {
    placeholder: "number",
    about: "Port to listen on; 0 picks a free one.",
  }),
  dataDir: text.prefault("./streams-data").register(docs, {
    placeholder: "path",
    about: "Directory that holds all data; created when missing. One server per directory.",
  }),
  memory: toggle.prefault(false).register(docs, {
    about: "Keep everything in memory, for experiments: nothing survives the process.",
  }),
  durability: choice("fsync", "os").prefault("fsync").register(docs, {
    placeholder: "mode",
    about: "fsync: acknowledged data survives a power cut. os: it survives a crash of the process, not of the machine.",
  }),
  longPollTimeout: duration("1ms", "10m").prefault("20s").register(docs, {
    placeholder: "duration",
    about: "How long a long-poll waits for data before it answers 204.",
  }),
  maxBodyBytes: size("1KiB", "128MiB").prefault("16MiB").register(docs, {
    placeholder: "size",
    about: "Largest request body; beyond it 413.",
  }),
  maxStored: size("64MiB", "1024TiB").nullable().prefault(null).register(docs, {
    placeholder: "size",
    about:
      "Most bytes of records to keep, sealed or not; beyond it appends get 507. Default: as many as the disk has room for.",
  }),
  corsOrigin: origins.prefault([]).register(docs, {
    placeholder: "origin",
    about: "Browser origin that may use the server; repeat it or separate with commas; * allows any.",
    isList: true,
  }),
  publicUrl: baseUrl.nullable().prefault(null).register(docs, {
    placeholder: "url",
    about: "URL under which clients see the server, for absolute links.",
  }),
  ...authSettings,
  allowLocalWebhooks: toggle.prefault(false).register(docs, {
    about: "Let webhooks of subscriptions go to this machine (http://localhost, 127.0.0.0/8): for development only.",
  }),
  acceptLoss: toggle.prefault(false).register(docs, {
    about: "Start although acknowledged records are missing at the end of the log.",
  }),
  instanceId: text.prefault("local").register(docs, {
    placeholder: "name",
    about: "Name of this server in its metrics.",
    aliases: ["DS_INSTANCE_ID", "HOSTNAME"],
  }),
  region: text.prefault("local").register(docs, {
    placeholder: "name",
    about: "Region of this server in its metrics.",
    aliases: ["DS_REGION"],
  }),
  memoryLimit: size("192MiB", "1TiB").nullable().prefault(null).register(docs, {
    placeholder: "size",
    about:
      "Memory the process may use; sizes caches and queues, and beyond it requests get 429. Default: the cgroup's.",
  }),
  noLiveMetrics: toggle.prefault(false).register(docs, {
    about: "Do not append what live queries do to the metrics stream.",
  }),
  liveMetricsStream: streamName.prefault("live.metrics").register(docs, {
    placeholder: "name",
    about: "Stream the server appends its own metrics to.",
  }),
  liveMetricsInterval: duration("100ms", "1h").prefault("1s").register(docs, {
    placeholder: "duration",
    about: "How often each stream with live queries gets a record there.",
  }),
  liveMetricsRetention: duration("1m", "365d").prefault("7d").register(docs, {
    placeholder: "duration",
    about: "Age at which these records go; the stream holds at most 1 GiB besides.",
  }),
  logLevel: choice("debug", "info", "warning", "error").prefault("info").register(docs, {
    placeholder: "level",
    about: "Least severe log line that is written to stderr: debug, info, warning or error.",
  }),
  config: text.nullable().prefault(null).register(docs, {
    placeholder: "file",
    about: 'JSON file with settings, named as here in camelCase, e.g. {"dataDir": "/var/lib/streams"}.',
  }),
});

type Settings = z.output<typeof schema>;

export interface ServerConfig {
  readonly host: string;
  readonly port: number;
  /** Null keeps everything in memory. */
  readonly dataDir: string | null;
  readonly durability: "fsync" | "os";
  readonly longPollTimeoutMs: number;
  readonly maxBodyBytes: number;
  /** Null = as many as the disk has room for. */
  readonly maxStoredBytes: number | null;
  readonly corsOrigins: "*" | readonly string[];
  readonly publicUrl: string | null;
  /** Host must be a loopback name, and browsers of other origins may not write. */
  readonly loopbackOnly: boolean;
  /** Null = nobody is asked who they are. */
  readonly auth: NonNullable<OpenOptions["auth"]> | null;
  /** Null = in the data directory. */
  readonly keysFile: string | null;
  /** Files of a certificate and its key. */
  readonly tls: { readonly cert: string; readonly key: string } | null;
  readonly clientRates: ClientRates | null;
  readonly allowLocalWebhooks: boolean;
  readonly acceptLoss: boolean;
  readonly identity: { readonly instanceId: string; readonly region: string };
  /** Null = what the control group allows. */
  readonly memoryLimitBytes: number | null;
  readonly liveMetrics: {
    readonly enabled: boolean;
    readonly stream: string;
    readonly intervalMs: number;
    readonly retentionMs: number;
  };
  readonly logLevel: "debug" | "info" | "warning" | "error";
}

/** A setting as documented. */
export interface Setting {
  readonly name: string;
  readonly flag: string;
  readonly variable: string;
  readonly aliases: readonly string[];
  readonly placeholder: string | null;
  readonly about: string;
  /** As a user would write it; empty when there is none. */
  readonly defaultText: string;
  readonly secret: boolean;
  readonly isList: boolean;
}

/** All settings in the order of the docs. */
export const SETTINGS: readonly Setting[] = Object.entries(schema.shape).map(([name, type]) => {
  const doc = docs.get(type);
  if (doc === undefined) throw new Error(`setting ${name} has no documentation`);
  const words = name.replace(/[A-Z]/g, (letter) => `_${letter}`).toUpperCase();
  return {
    name,
    flag: `--${words.toLowerCase().replaceAll("_", "-")}`,
    variable: `STREAMS_${words}`,
    aliases: doc.aliases ?? [],
    placeholder: doc.placeholder ?? null,
    about: doc.about,
    defaultText: spellDefault(type.def.defaultValue),
    secret: doc.secret === true,
    isList: doc.isList === true,
  };
});

/** One thing that is wrong with the configuration, and where it came from. */
export interface ConfigProblem {
  /** E.g. `--port`, `STREAMS_PORT` or `port in streams.json`. */
  readonly source: string;
  readonly message: string;
}

export interface ConfigSources {
  /** Values of the flags that were given, by setting name. */
  readonly flags: Readonly<Record<string, unknown>>;
  readonly env: Readonly<Record<string, string | undefined>>;
  /** The text of the config file; rejects when it cannot be read. */
  readonly readFile: (path: string) => Promise<string>;
}

interface Given {
  readonly source: string;
  readonly value: unknown;
}

/** Merges the sources and checks them; names every problem at once. */
export async function resolveConfig(sources: ConfigSources): Promise<Result<ServerConfig, ConfigProblem[]>> {
  const problems: ConfigProblem[] = [];
  const env = givenByEnv(sources.env, problems);
  const flags = new Map(
    SETTINGS.flatMap(({ name, flag }) => {
      const value = sources.flags[name];
      return value === undefined ? [] : [[name, { source: flag, value }]];
    }),
  );
  const path = (flags.get("config") ?? env.get("config"))?.value;
  const file =
    typeof path === "string" ? await givenByFile(path, sources.readFile, problems) : new Map<string, Given>();
  const given = new Map([...file, ...env, ...flags]);

  const values = Object.fromEntries([...given].map(([name, { value }]) => [name, value]));
  const parsed = schema.safeParse(values);
  for (const issue of parsed.error?.issues ?? []) {
    const name = String(issue.path[0]);
    problems.push({ source: given.get(name)?.source ?? name, message: issue.message });
  }
  if (parsed.data !== undefined) problems.push(...conflicts(parsed.data));
  return problems.length > 0 || parsed.data === undefined ? Result.err(problems) : Result.ok(serverConfig(parsed.data));
}

/** Variables that are set and not blank; unknown `STREAMS_…` names are problems. */
function givenByEnv(env: ConfigSources["env"], problems: ConfigProblem[]): Map<string, Given> {
  const given = new Map<string, Given>();
  for (const { name, variable, aliases } of SETTINGS) {
    const source = [variable, ...aliases].find((candidate) => (env[candidate] ?? "").trim() !== "");
    if (source !== undefined) given.set(name, { source, value: env[source]?.trim() });
  }
  const known = SETTINGS.map((setting) => setting.variable);
  for (const variable of Object.keys(env)) {
    if (!variable.startsWith("STREAMS_") || known.includes(variable)) continue;
    problems.push({ source: variable, message: unknownName("environment variable", variable, known) });
  }
  return given;
}

async function givenByFile(
  path: string,
  readFile: ConfigSources["readFile"],
  problems: ConfigProblem[],
): Promise<Map<string, Given>> {
  const given = new Map<string, Given>();
  const content = await readJsonObject(path, readFile);
  if (content.isErr()) {
    problems.push({ source: path, message: content.error });
    return given;
  }
  const known = SETTINGS.map((setting) => setting.name).filter((name) => name !== "config");
  for (const [name, value] of Object.entries(content.value)) {
    const source = `${name} in ${path}`;
    if (known.includes(name)) given.set(name, { source, value });
    else problems.push({ source, message: unknownName("setting", name, known) });
  }
  return given;
}

async function readJsonObject(path: string, readFile: ConfigSources["readFile"]): Promise<Result<JsonObject, string>> {
  try {
    const content: unknown = JSON.parse(await readFile(path));
    if (isJsonObject(content)) return Result.ok(content);
    return Result.err("expected a JSON object with settings");
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    return Result.err(cause instanceof SyntaxError ? `is not JSON: ${reason}` : `cannot be read: ${reason}`);
  }
}

/** What single values cannot show: settings that exclude or require each other. */
function conflicts(settings: Settings): ConfigProblem[] {
  const found: ConfigProblem[] = authConflicts(settings, settings.host, isLoopbackHost(settings.host), settings.memory);
  if (settings.memory && settings.maxStored !== null) {
    found.push({ source: "--max-stored", message: "is for a data directory; a server in memory has --memory-limit" });
  }
  return found;
}

function serverConfig(settings: Settings): ServerConfig {
  // Programs of this machine, and nobody asked who they are.
  const isTrusted = isLoopbackHost(settings.host) && !settings.noAuth && settings.auth === "none";
  return {
    host: settings.host,
    port: settings.port,
    dataDir: settings.memory ? null : settings.dataDir,
    durability: settings.durability,
    longPollTimeoutMs: settings.longPollTimeout,
    maxBodyBytes: settings.maxBodyBytes,
    maxStoredBytes: settings.maxStored,
    corsOrigins: settings.corsOrigin,
    publicUrl: settings.publicUrl,
    loopbackOnly: isLoopbackHost(settings.host) && settings.auth === "none",
    auth: authStrategy(settings),
    keysFile: settings.keysFile,
    tls:
      settings.tlsCert === null || settings.tlsKey === null ? null : { cert: settings.tlsCert, key: settings.tlsKey },
    clientRates: clientRates(settings, isTrusted),
    allowLocalWebhooks: settings.allowLocalWebhooks,
    acceptLoss: settings.acceptLoss,
    identity: { instanceId: settings.instanceId, region: settings.region },
    memoryLimitBytes: settings.memoryLimit,
    liveMetrics: {
      enabled: !settings.noLiveMetrics,
      stream: settings.liveMetricsStream,
      intervalMs: settings.liveMetricsInterval,
      retentionMs: settings.liveMetricsRetention,
    },
    logLevel: settings.logLevel,
  };
}

/** Whether only this machine can reach an address: 127.0.0.0/8, ::1 or localhost. */
export function isLoopbackHost(host: string): boolean {
  return host === "localhost" || host === "::1" || host === "[::1]" || /^127(\.\d{1,3}){3}$/.test(host);
}

/** The settings as a Markdown table, for the docs. */
export function settingsTable(): string {
  const rows = SETTINGS.map((setting) => {
    const flag = setting.placeholder === null ? setting.flag : `${setting.flag} <${setting.placeholder}>`;
    const variables = [setting.variable, ...setting.aliases].map((name) => `\`${name}\``).join(", ");
    const fallback = setting.defaultText === "" ? "" : `\`${setting.defaultText}\``;
    return `| \`${flag}\` | ${variables} | ${fallback} | ${setting.about} |`;
  });
  return ["| flag | environment | default | meaning |", "|---|---|---|---|", ...rows].join("\n");
}

function unknownName(kind: string, name: string, known: readonly string[]): string {
  const nearest = nearestName(name, known);
  return `unknown ${kind}${nearest === null ? "" : `; did you mean ${nearest}?`}`;
}

/** Defaults stand in the schema as a user would write them; a switch that is off and an empty list need no words. */
function spellDefault(value: unknown): string {
  return typeof value === "string" || typeof value === "number" ? String(value) : "";
}
