/**
 * The map: where the window looks, what the live view shows there, and how it is drawn. The window is the view's viewport: whenever it
 * moves the view is told. In the address: `server`, `stream`, and `box` = minX,minY,maxX,maxY in degrees.
 */

import { landPath } from "./land.js";
import { openLiveView } from "./live-view.js";

const WORLD = [-180, -70, 180, 80];
const LIMIT = 200;
const LISTED = 10;
const FLASH_MS = 1_500;
const ZOOM_PER_WHEEL_PIXEL = 1.0015;

const address = new URLSearchParams(location.search);
const canvas = document.querySelector("#map");
const context = canvas.getContext("2d");
const land = landPath(await (await fetch("world.json")).json());

/** The point in the middle of the window, in degrees, and pixels per degree. */
const look = { x: 0, y: 0, scale: 1 };
/** What is shown: keys and quakes, the strongest first. */
let quakes = [];
let offset = "none yet";
let status = "";
/** When a key entered. */
const enteredMs = new Map();
let isDrawing = false;

function visibleBox() {
  const [halfX, halfY] = [innerWidth / 2 / look.scale, innerHeight / 2 / look.scale];
  return { minX: look.x - halfX, minY: look.y - halfY, maxX: look.x + halfX, maxY: look.y + halfY };
}

function visibleView() {
  return { type: "quake", viewport: { x: "lng", y: "lat", ...visibleBox() }, order: "-mag", limit: LIMIT };
}

/** Looks at a box: the whole of it, and what else is in the window then. */
function showBox(minX, minY, maxX, maxY) {
  const scale = Math.min(innerWidth / (maxX - minX), innerHeight / (maxY - minY));
  lookAt({ x: (minX + maxX) / 2, y: (minY + maxY) / 2, scale });
}

function lookAt(next) {
  Object.assign(look, next);
  liveView?.show(visibleView());
  draw();
}

/** The same as the server's: by magnitude, then by key. */
function strongestFirst([leftKey, left], [rightKey, right]) {
  return right.mag - left.mag || (leftKey < rightKey ? -1 : 1);
}

function onRows(rows, told) {
  quakes = [...rows].sort(strongestFirst);
  offset = told.offset;
  for (const key of told.entered) enteredMs.set(key, performance.now());
  const listed = quakes.slice(0, LISTED).map(([, { mag, place }]) => {
    const item = document.createElement("li");
    item.textContent = `${place}  ${mag.toFixed(1)}`;
    return item;
  });
  document.querySelector("#strongest").replaceChildren(...listed);
  say();
  draw();
}

function say(next = status) {
  status = next;
  const shown = `${quakes.length}${quakes.length === LIMIT ? " strongest" : ""} quakes`;
  document.querySelector("#status").textContent = `${shown} at offset ${offset} · ${status}`;
}

function draw() {
  if (!isDrawing) requestAnimationFrame(drawFrame);
  isDrawing = true;
}

function drawFrame(nowMs) {
  isDrawing = false;
  const pixels = devicePixelRatio;
  [canvas.width, canvas.height] = [innerWidth * pixels, innerHeight * pixels];
  const { x, y, scale } = look;
  const [left, top] = [innerWidth / 2 - x * scale, innerHeight / 2 + y * scale];
  context.setTransform(scale * pixels, 0, 0, -scale * pixels, left * pixels, top * pixels);
  drawEarth(1 / scale);
  context.setTransform(pixels, 0, 0, pixels, 0, 0);
  for (const [key, quake] of quakes)
    drawQuake(quake, left + quake.lng * scale, top - quake.lat * scale, age(key, nowMs));
}

/** In degrees. */
function drawEarth(pixel) {
  context.fillStyle = "#12263a";
  context.fillRect(-180, -90, 360, 180);
  context.fillStyle = "#2a3d4f";
  context.fill(land, "evenodd");
  context.beginPath();
  for (let lng = -180; lng <= 180; lng += 15) context.rect(lng, -90, 0, 180);
  for (let lat = -90; lat <= 90; lat += 15) context.rect(-180, lat, 360, 0);
  context.lineWidth = pixel;
  context.strokeStyle = "#ffffff14";
  context.stroke();
}

/** Red ones are shallow, blue ones deep; what has just entered sends out a ring. */
function drawQuake({ mag, depth }, x, y, flash) {
  const radius = 2 * 1.6 ** Math.max(0, mag - 1);
  context.fillStyle = `hsl(${Math.min(220, Math.max(0, depth) ** 0.8 * 4)} 90% 60% / 0.55)`;
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  context.fill();
  if (flash === null) return;
  context.strokeStyle = `rgb(255 255 255 / ${1 - flash})`;
  context.beginPath();
  context.arc(x, y, radius + 20 * flash, 0, 2 * Math.PI);
  context.stroke();
}

/** How far the flash of a key has come, from 0 to 1; null when it is over. */
function age(key, nowMs) {
  const flash = Math.max(0, nowMs - (enteredMs.get(key) ?? -Infinity)) / FLASH_MS;
  if (flash >= 1) {
    enteredMs.delete(key);
    return null;
  }
  draw();
  return flash;
}

canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
canvas.addEventListener("pointermove", ({ buttons, movementX, movementY }) => {
  if (buttons === 1) lookAt({ x: look.x - movementX / look.scale, y: look.y + movementY / look.scale });
});
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const factor = ZOOM_PER_WHEEL_PIXEL ** -event.deltaY;
  // What is under the mouse stays there.
  const [fromX, fromY] = [
    (event.clientX - innerWidth / 2) / look.scale,
    (innerHeight / 2 - event.clientY) / look.scale,
  ];
  const away = 1 - 1 / factor;
  lookAt({ x: look.x + fromX * away, y: look.y + fromY * away, scale: look.scale * factor });
});
addEventListener("resize", () => lookAt({}));

let liveView = null;
showBox(...(address.get("box")?.split(",").map(Number) ?? WORLD));
liveView = openLiveView({
  server: address.get("server") ?? "http://127.0.0.1:4437",
  stream: address.get("stream") ?? "earthquakes",
  view: visibleView(),
  onRows,
  onStatus: say,
});

// For the console, and for tests.
Object.assign(window, { showBox, visibleBox, shown: () => ({ keys: quakes.map(([key]) => key), offset }) });
