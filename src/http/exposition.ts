/** The registry as text in the Prometheus exposition format 0.0.4. */

import type { Histogram } from "../kit/histogram.ts";
import type { Family, Metrics, Sample } from "../kit/metrics.ts";

export const EXPOSITION_TYPE = "text/plain; version=0.0.4; charset=utf-8";

export function renderExposition(metrics: Metrics): string {
  const lines: string[] = [];
  for (const family of metrics.families()) {
    const samples = [...family.samples()].filter(({ value }) => !Number.isNaN(value));
    if (samples.length === 0) continue;
    lines.push(`# HELP ${family.name} ${family.help}`, `# TYPE ${family.name} ${family.type}`);
    for (const sample of samples) lines.push(...renderSample(family, sample));
  }
  return `${lines.join("\n")}\n`;
}

function renderSample({ name, labelName }: Family, { label, value }: Sample): string[] {
  if (typeof value !== "number") return renderHistogram(name, value);
  const labels = labelName === null ? "" : `{${labelName}="${escapeLabel(label ?? "")}"}`;
  return [`${name}${labels} ${value}`];
}

function renderHistogram(name: string, histogram: Histogram): string[] {
  const lines: string[] = [];
  let seen = 0;
  for (const [bucket, bound] of histogram.bounds.entries()) {
    seen += histogram.counts[bucket] ?? 0;
    lines.push(`${name}_bucket{le="${bound}"} ${seen}`);
  }
  lines.push(`${name}_bucket{le="+Inf"} ${histogram.count}`, `${name}_sum ${histogram.sum}`);
  lines.push(`${name}_count ${histogram.count}`);
  return lines;
}

function escapeLabel(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
}
