/** Costs of endpoints today and this month, in UTC, and their budgets. For administrators. */

const MIN_INTERVAL_MS = 5_000;

export function createSpend(app) {
  // Endpoint id → {day, month} in USD; null before the first response.
  let spent = null;
  let budgets = [];
  let loadedAt = -Infinity;

  async function load() {
    loadedAt = performance.now();
    try {
      const today = new Date().toISOString().slice(0, 10);
      const from = `${today.slice(0, 8)}01T00:00:00Z`;
      const [report, found] = await Promise.all([
        app.api.get(`/api/usage?by=node&bucket=day&from=${from}`),
        app.api.get('/api/budgets'),
      ]);
      spent = sumByEndpoint(report.usage, today);
      budgets = found.budgets;
      app.requestRender();
    } catch {
      // The endpoints are shown without it.
    }
  }

  return {
    load,
    /** Events of endpoints come often; the sums follow a few seconds later. */
    refresh() {
      if (performance.now() - loadedAt > MIN_INTERVAL_MS) load();
    },
    /** {day, month} in USD, or null before it is known. */
    of: ({ id }) => spent && (spent.get(id) ?? { day: 0, month: 0 }),
    budgets: () => budgets,
  };
}

function sumByEndpoint(usage, today) {
  const sums = new Map();
  for (const { endpoint_id: id, bucket, cost_usd: cost } of usage) {
    if (!id || !cost) continue;
    const sum = sums.get(id) ?? { day: 0, month: 0 };
    sum.month += cost;
    if (bucket.startsWith(today)) sum.day += cost;
    sums.set(id, sum);
  }
  return sums;
}
