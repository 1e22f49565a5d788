/** Parser for a stream of Server-Sent Events. */

/** Yields {event, data} of each event; comments (heartbeats) are skipped. */
export async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const blocks = (rest + value).replace(/\r\n/g, '\n').split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) {
        const found = parseEvent(block);
        if (found) yield found;
      }
    }
  } finally {
    // Cancelling the reader stops the engine as well.
    await reader.cancel().catch(() => {});
  }
}

/** Lines of one event → {event, data}, or null without data. */
export function parseEvent(block) {
  let event = 'message';
  const data = [];
  for (const line of block.split('\n')) {
    const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line);
    if (name === 'data') data.push(value);
    else if (name === 'event') event = value;
  }
  return data.length ? { event, data: data.join('\n') } : null;
}
