/**
 * Certificates for TLS tests, made on the spot: an authority and what it signs, as X.509 v3 over P-256. Nothing is written down, and no
 * tool outside is needed.
 */

import { generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { isIPv4 } from "node:net";

export interface Certificate {
  readonly cert: string;
  readonly key: string;
}

export interface Authority {
  readonly cert: string;
  /** For DNS names and IPv4 addresses; `expired`: it ended yesterday. */
  issue(names: readonly string[], expired?: boolean): Certificate;
}

const DAY_MS = 86_400_000;
const ECDSA_WITH_SHA256 = sequence(oid("2a8648ce3d040302"));

export function makeAuthority(name: string): Authority {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const isAuthority = extension("551d13", sequence(tagged(0x01, Buffer.from([0xff]))));
  return {
    cert: certificate({ issuer: name, subject: name, publicKey, signer: privateKey, extension: isAuthority }),
    issue(names, expired = false) {
      const pair = generateKeyPairSync("ec", { namedCurve: "P-256" });
      const alternatives = names.map((text) =>
        isIPv4(text) ? tagged(0x87, Buffer.from(text.split(".").map(Number))) : tagged(0x82, Buffer.from(text)),
      );
      const cert = certificate({
        issuer: name,
        subject: "a receiver",
        publicKey: pair.publicKey,
        signer: privateKey,
        extension: extension("551d11", sequence(...alternatives)),
        expired,
      });
      return { cert, key: pair.privateKey.export({ type: "pkcs8", format: "pem" }) };
    },
  };
}

interface CertificateParts {
  readonly issuer: string;
  readonly subject: string;
  readonly publicKey: KeyObject;
  readonly signer: KeyObject;
  readonly extension: Buffer;
  readonly expired?: boolean;
}

function certificate({ issuer, subject, publicKey, signer, extension, expired = false }: CertificateParts): string {
  const nowMs = Date.now();
  const signed = sequence(
    tagged(0xa0, tagged(0x02, Buffer.from([2]))),
    tagged(0x02, Buffer.concat([Buffer.from([1]), crypto.getRandomValues(Buffer.alloc(8))])),
    ECDSA_WITH_SHA256,
    distinguishedName(issuer),
    sequence(utcTime(nowMs - 3 * DAY_MS), utcTime(nowMs + (expired ? -1 : 3) * DAY_MS)),
    distinguishedName(subject),
    publicKey.export({ type: "spki", format: "der" }),
    tagged(0xa3, sequence(extension)),
  );
  const signature = tagged(0x03, Buffer.concat([Buffer.from([0]), sign("sha256", signed, signer)]));
  const base64 = sequence(signed, ECDSA_WITH_SHA256, signature).toString("base64");
  return `-----BEGIN CERTIFICATE-----\n${(base64.match(/.{1,64}/g) ?? []).join("\n")}\n-----END CERTIFICATE-----\n`;
}

function tagged(tag: number, content: Buffer): Buffer {
  const { length } = content;
  const head = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...head]), content]);
}

function sequence(...parts: readonly Buffer[]): Buffer {
  return tagged(0x30, Buffer.concat(parts));
}

function oid(hex: string): Buffer {
  return tagged(0x06, Buffer.from(hex, "hex"));
}

function distinguishedName(name: string): Buffer {
  return sequence(tagged(0x31, sequence(oid("550403"), tagged(0x0c, Buffer.from(name)))));
}

function utcTime(ms: number): Buffer {
  const digits = new Date(ms).toISOString().replaceAll(/[-:T]/g, "").slice(2, 14);
  return tagged(0x17, Buffer.from(`${digits}Z`));
}

/** Critical: whoever does not understand it has to refuse. */
function extension(id: string, value: Buffer): Buffer {
  return sequence(oid(id), tagged(0x01, Buffer.from([0xff])), tagged(0x04, value));
}
