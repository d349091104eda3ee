/** The settings of who may reach the server and how: authentication, TLS, and what one client may ask. Part of the schema in `config.ts`. */

import { KEY_ALGORITHMS, MIN_SECRET_BYTES, SECRET_ALGORITHMS } from "../features/auth/index.ts";
import type { ClientRates } from "../http/client-limits.ts";
import type { OpenOptions } from "./open.ts";
import { docs } from "./setting-docs.ts";
import { choice, limit, secretText, size, text, toggle, wholeNumber, words } from "./setting-values.ts";

const ALGORITHMS: readonly string[] = [...SECRET_ALGORITHMS, ...KEY_ALGORITHMS];

export const authSettings = {
  auth: choice("none", "api-key", "jwt").prefault("none").register(docs, {
    placeholder: "strategy",
    about: "How callers are told apart: none (loopback only, or with --no-auth), api-key or jwt.",
  }),
  noAuth: toggle.prefault(false).register(docs, {
    about: "Serve without authentication beyond loopback: whoever reaches the port may read, write and delete.",
  }),
  keysFile: text.nullable().prefault(null).register(docs, {
    placeholder: "path",
    about: "File of the API keys; the keys command writes it. Default: keys.json in the data directory.",
  }),
  jwtSecret: secretText
    .nullable()
    .prefault(null)
    .register(docs, {
      placeholder: "text",
      about: `Secret that tokens are signed with, at least ${MIN_SECRET_BYTES} bytes. Better in the environment than on the command line.`,
      secret: true,
    }),
  jwtJwksUrl: text.nullable().prefault(null).register(docs, {
    placeholder: "url",
    about: "Where the issuer of the tokens publishes its keys; instead of a secret.",
  }),
  jwtAlgorithms: words(ALGORITHMS).prefault([]).register(docs, {
    placeholder: "names",
    about:
      "Signatures that are accepted, with commas. Default: HS256 with a secret; RS256, PS256, ES256, EdDSA with a URL.",
    isList: true,
  }),
  jwtIssuer: text.nullable().prefault(null).register(docs, {
    placeholder: "name",
    about: "The issuer that tokens must name.",
  }),
  jwtAudience: text.nullable().prefault(null).register(docs, {
    placeholder: "name",
    about: "The audience that tokens must name; needed with a URL, whose issuer has other audiences too.",
  }),
  jwtClaim: text.prefault("scope").register(docs, {
    placeholder: "name",
    about: "The claim that holds the grants of a token, such as read:orders/*.",
  }),
  tlsCert: text.nullable().prefault(null).register(docs, {
    placeholder: "file",
    about: "Certificate chain (PEM) to serve HTTPS with; needs --tls-key.",
  }),
  tlsKey: text.nullable().prefault(null).register(docs, {
    placeholder: "file",
    about: "Private key (PEM) of the certificate.",
  }),
  limitRequests: limit(wholeNumber(1, 10_000_000)).prefault(null).register(docs, {
    placeholder: "number",
    about:
      "Requests a second of one key, token or address; beyond it 429. Default: 5000, none on loopback without authentication.",
  }),
  limitBytes: limit(size("1KiB", "1TiB")).prefault(null).register(docs, {
    placeholder: "size",
    about: "Body bytes a second of one key, token or address. Default: 64MiB, none on loopback without authentication.",
  }),
  limitStreams: limit(wholeNumber(1, 100_000_000)).prefault(null).register(docs, {
    placeholder: "number",
    about:
      "Streams that one key, token or address may have made. Default: 100000, none on loopback without authentication.",
  }),
  limitLive: limit(wholeNumber(1, 1_000_000)).prefault(null).register(docs, {
    placeholder: "number",
    about:
      "Live connections and waits of one key, token or address. Default: 2000, none on loopback without authentication.",
  }),
};

/** As the schema reads them. */
export interface AuthSettings {
  readonly auth: "none" | "api-key" | "jwt";
  readonly noAuth: boolean;
  readonly keysFile: string | null;
  readonly jwtSecret: string | null;
  readonly jwtJwksUrl: string | null;
  readonly jwtAlgorithms: readonly string[];
  readonly jwtIssuer: string | null;
  readonly jwtAudience: string | null;
  readonly jwtClaim: string;
  readonly tlsCert: string | null;
  readonly tlsKey: string | null;
  readonly limitRequests: number | null;
  readonly limitBytes: number | null;
  readonly limitLive: number | null;
  readonly limitStreams: number | null;
}

interface Conflict {
  readonly source: string;
  readonly message: string;
}

/** Settings that exclude or require each other. */
export function authConflicts(
  settings: AuthSettings,
  host: string,
  isLoopback: boolean,
  inMemory: boolean,
): Conflict[] {
  const { auth, noAuth, tlsCert, tlsKey, keysFile, jwtSecret, jwtJwksUrl } = settings;
  const found: Conflict[] = [];
  const say = (source: string, message: string): number => found.push({ source, message });
  if (auth === "none" && !isLoopback && !noAuth) {
    say(
      "--host",
      `${host} can be reached from other machines. Choose --auth api-key or --auth jwt, or pass --no-auth to serve everyone who reaches the port.`,
    );
  }
  if (auth !== "none" && noAuth) say("--no-auth", `contradicts --auth ${auth}; leave one of them out`);
  if ((tlsCert === null) !== (tlsKey === null)) say("--tls-cert", "give --tls-cert and --tls-key together");
  if (auth === "api-key" && inMemory && keysFile === null) say("--auth", "keys of a server in memory need --keys-file");
  const { jwtIssuer, jwtAudience, jwtAlgorithms } = settings;
  if (auth !== "api-key" && keysFile !== null) say("--keys-file", "is for --auth api-key");
  if (
    auth !== "jwt" &&
    [jwtSecret, jwtJwksUrl, jwtIssuer, jwtAudience, jwtAlgorithms[0] ?? null].some((given) => given !== null)
  )
    say("--auth", "settings of tokens need --auth jwt");
  return auth === "jwt" ? [...found, ...jwtConflicts(settings)] : found;
}

function jwtConflicts({ jwtSecret, jwtJwksUrl, jwtAlgorithms, jwtAudience }: AuthSettings): Conflict[] {
  const found: Conflict[] = [];
  const say = (source: string, message: string): number => found.push({ source, message });
  if ((jwtSecret === null) === (jwtJwksUrl === null)) say("--auth", "jwt needs one of --jwt-secret and --jwt-jwks-url");
  if (jwtSecret !== null && new TextEncoder().encode(jwtSecret).length < MIN_SECRET_BYTES) {
    say("--jwt-secret", `the secret has at least ${MIN_SECRET_BYTES} bytes; make one with: openssl rand -base64 32`);
  }
  if (jwtJwksUrl !== null && !isSafeUrl(jwtJwksUrl)) {
    say("--jwt-jwks-url", "expected an https URL; http only to this machine");
  }
  if (jwtJwksUrl !== null && jwtAudience === null)
    say("--jwt-audience", "needed with --jwt-jwks-url: the issuer makes tokens for others too");
  const fitting: readonly string[] = jwtSecret === null ? KEY_ALGORITHMS : SECRET_ALGORITHMS;
  const wrong = jwtAlgorithms.find((name) => !fitting.includes(name));
  if (wrong !== undefined)
    say("--jwt-algorithms", `${wrong} does not go with ${jwtSecret === null ? "published keys" : "a secret"}`);
  return found;
}

function isSafeUrl(written: string): boolean {
  if (!URL.canParse(written)) return false;
  const { protocol, hostname, username } = new URL(written);
  const isLocal = /^(localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(hostname);
  return username === "" && (protocol === "https:" || (protocol === "http:" && isLocal));
}

/** How callers are told apart, as `open` takes it; the keys stand in a file that `serve` watches. */
export function authStrategy(settings: AuthSettings): NonNullable<OpenOptions["auth"]> | null {
  const { auth, jwtSecret, jwtJwksUrl, jwtAlgorithms, jwtIssuer, jwtAudience, jwtClaim } = settings;
  if (auth === "none") return null;
  if (auth === "api-key") return { kind: "api-key" };
  const usual = jwtSecret === null ? ["RS256", "PS256", "ES256", "EdDSA"] : ["HS256"];
  return {
    kind: "jwt",
    key: jwtSecret === null ? { jwksUrl: jwtJwksUrl ?? "" } : { secret: new TextEncoder().encode(jwtSecret) },
    algorithms: jwtAlgorithms.length > 0 ? jwtAlgorithms : usual,
    issuer: jwtIssuer,
    audience: jwtAudience,
    claim: jwtClaim,
  };
}

const DEFAULT_RATES: ClientRates = {
  requestsPerSecond: 5_000,
  bytesPerSecond: 64 * 1024 * 1024,
  live: 2_000,
  streams: 100_000,
};
const NO_RATES: ClientRates = {
  requestsPerSecond: Infinity,
  bytesPerSecond: Infinity,
  live: Infinity,
  streams: Infinity,
};

/** What one client may ask; null when there is no limit at all. */
export function clientRates(settings: AuthSettings, isTrusted: boolean): ClientRates | null {
  const { requestsPerSecond, bytesPerSecond, live, streams } = isTrusted ? NO_RATES : DEFAULT_RATES;
  const rates = {
    requestsPerSecond: settings.limitRequests ?? requestsPerSecond,
    bytesPerSecond: settings.limitBytes ?? bytesPerSecond,
    live: settings.limitLive ?? live,
    streams: settings.limitStreams ?? streams,
  };
  return Object.values(rates).every((rate) => rate === Infinity) ? null : rates;
}
