/** JSON request bodies of control routes: bounded, checked for depth before they are parsed, then held to a schema. */

import type { ZodType } from "zod";
import { scanJson } from "../protocol/json-scan.ts";
import type { Exchange } from "./context.ts";
import { badRequest, type HttpProblem, isProblem } from "./errors.ts";

const decoder = new TextDecoder();

/** The body as `schema` gives it, or why it is refused (code `body-invalid`, with the path of the first problem). */
export async function receiveJson<T>(
  exchange: Exchange,
  schema: ZodType<T>,
  maxBytes: number,
): Promise<{ readonly value: T } | HttpProblem> {
  const body = await exchange.uploads.receive(exchange, Math.min(maxBytes, exchange.options.maxBodyBytes));
  if (isProblem(body)) return body;
  try {
    const scan = scanJson(body.bytes);
    if ("kind" in scan) {
      return badRequest("body-invalid", "reason" in scan ? `the body is not valid JSON: ${scan.reason}` : scan.kind);
    }
    const parsed = schema.safeParse(JSON.parse(decoder.decode(body.bytes)));
    if (parsed.success) return { value: parsed.data };
    const [issue] = parsed.error.issues;
    const where = issue === undefined || issue.path.length === 0 ? "the body" : issue.path.join(".");
    return badRequest("body-invalid", `${where}: ${issue?.message ?? "not valid"}`);
  } finally {
    body.release();
  }
}
