/** The land of a TopoJSON file as one path in degrees. Arcs are shared by neighbours: whole steps, each from the one before. */

export function landPath({ arcs, transform, objects }) {
  const path = new Path2D();
  const points = arcs.map((arc) => decodeArc(arc, transform));
  for (const polygon of objects.land.arcs) {
    for (const ring of polygon) {
      ring.flatMap((index) => pointsOf(points, index)).forEach(([lng, lat]) => path.lineTo(lng, lat));
      path.closePath();
    }
  }
  return path;
}

function decodeArc(arc, { scale, translate }) {
  let [x, y] = [0, 0];
  return arc.map(([dx, dy]) => {
    x += dx;
    y += dy;
    return [x * scale[0] + translate[0], y * scale[1] + translate[1]];
  });
}

/** A negative index is the arc ~index, backwards. */
function pointsOf(points, index) {
  return index < 0 ? points[~index].toReversed() : points[index];
}
