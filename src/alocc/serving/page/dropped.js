// Files that people dropped or chose → image files in order, folders walked through. What is no image is left out.

const SUFFIXES = /\.(png|jpe?g|bmp|tiff?|webp|gif|pgm|ppm|pnm)$/i;

const isImage = (file) => file.type.startsWith("image/") || SUFFIXES.test(file.name);
const byPath = (one, other) => one.path.localeCompare(other.path, "en", { numeric: true });

/** Chosen files → {images: [{file, path}], nOthers}. */
export function chosen(files) {
  const all = [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
  return sorted(all);
}

/** The same of a drop. Its items are gone when this function yields for the first time: they are read at once. */
export async function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return sorted(found);
}

async function walk(entry, found) {
  if (entry.name.startsWith(".")) return;
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, path: entry.fullPath.replace(/^\//, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) { // a reader gives a hundred at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const one of some) await walk(one, found);
  }
}

function sorted(all) {
  const images = all.filter(({ file }) => isImage(file)).sort(byPath);
  return { images, nOthers: all.length - images.length };
}
