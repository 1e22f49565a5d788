/** Server-Sent Events out of a stream of bytes, as they arrive. */

/** Yields {event, data} of each event; comments (heartbeats) are passed over. */
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
    // Whoever stops reading early wants the engine to stop, too.
    await reader.cancel().catch(() => {});
  }
}

/** One event's lines → {event, data}, null where there is no data. */
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
