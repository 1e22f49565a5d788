/** Image attachments: scaled down, and sent to the model only. */

// Vision models scale larger images down anyway.
const MAX_SIDE_PX = 1536;
// In bytes.
const MAX_FILE_BYTES = 20_000_000;
// In characters. Photographs are much smaller as JPEG, and engines accept both.
const MAX_PNG_LENGTH = 1_500_000;
const IMAGE_TYPES = ['image/png', 'image/jpeg', 'image/webp', 'image/gif'];

// Per question.
export const MAX_IMAGES = 6;
export const ACCEPT = IMAGE_TYPES.join(',');

export class ImageRefused extends Error {}

/** File as a data: URL. Throws `ImageRefused` for unsupported files. */
export async function toDataUrl(file) {
  if (!IMAGE_TYPES.includes(file.type) || file.size > MAX_FILE_BYTES) throw new ImageRefused(file.name);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new ImageRefused(file.name);
  }
  const scale = Math.min(1, MAX_SIDE_PX / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext('2d');
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  const png = file.type === 'image/jpeg' ? null : canvas.toDataURL('image/png');
  if (png && png.length <= MAX_PNG_LENGTH) return png;
  // Transparent pixels would become black.
  context.globalCompositeOperation = 'destination-over';
  context.fillStyle = 'white';
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas.toDataURL('image/jpeg', 0.88);
}
