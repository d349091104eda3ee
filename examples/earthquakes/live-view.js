/**
 * A live view over a WebSocket: rows that stay true, whatever becomes of the connection. The protocol is in docs/live-views.md and
 * docs/websocket.md. A view that begins again is sent whole, so a page has no position to remember.
 */

const FIRST_RETRY_MS = 250;
const LAST_RETRY_MS = 5_000;

/**
 * Follows `view` of `stream`. Tells `onRows` what it shows after every message, with the keys that have entered, and `onStatus` in words
 * how the connection is. `show` has it show something else from now on.
 */
export function openLiveView({ server, stream, view, onRows, onStatus }) {
  const rows = new Map();
  let socket;
  let retryMs = FIRST_RETRY_MS;

  function connect() {
    onStatus("connecting");
    socket = new WebSocket(`${server.replace(/^http/, "ws")}/v1/ws`, ["streams.v1"]);
    socket.onopen = ask;
    socket.onmessage = ({ data }) => hear(JSON.parse(data));
    socket.onclose = () => {
      onStatus("disconnected");
      setTimeout(connect, retryMs);
      retryMs = Math.min(2 * retryMs, LAST_RETRY_MS);
    };
  }

  /** Opens the view; one that is open shows this from now on. Asked often the server waits until it rests. */
  function ask() {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: "view", id: "map", stream, view }));
  }

  function hear(message) {
    if (message.type === "rows") {
      retryMs = FIRST_RETRY_MS;
      onStatus("live");
      onRows(rows, { offset: message.offset, entered: apply(message) });
    } else if (message.type === "error" || message.type === "unsubscribed") {
      // No such stream yet, or not any more: it is tried again.
      onStatus(message.error?.message ?? message.reason);
      socket.close();
    }
  }

  function apply({ changes, full }) {
    const before = new Set(rows.keys());
    if (full) rows.clear();
    for (const { key, value, headers } of changes) {
      if (headers.operation === "delete") rows.delete(key);
      // The control records around a full set have no operation.
      else if (headers.operation !== undefined) rows.set(key, value);
    }
    return [...rows.keys()].filter((key) => !before.has(key));
  }

  connect();
  return {
    show(next) {
      view = next;
      ask();
    },
  };
}
