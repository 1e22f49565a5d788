/** Pictures for models that can see: made small enough to be sent, and never sent elsewhere than to the model. */

const MAX_SIDE_PX = 1536; // more pixels are scaled down by every vision model
const MAX_FILE_BYTES = 20_000_000; // bytes
const MAX_PNG_LENGTH = 1_500_000; // characters; a photograph is far smaller as JPEG, and engines read both
const IMAGE_TYPES = ['image/png', 'image/jpeg', 'image/webp', 'image/gif'];

export const MAX_IMAGES = 6; // of one question
export const ACCEPT = IMAGE_TYPES.join(',');

export class ImageRefused extends Error {}

/** A file as a data: URL. Raises `ImageRefused` for what is no picture that can be sent. */
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
  context.globalCompositeOperation = 'destination-over'; // what is transparent is not to become black
  context.fillStyle = 'white';
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas.toDataURL('image/jpeg', 0.88);
}
