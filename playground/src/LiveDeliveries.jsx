import { useEffect, useState } from 'react';

import { operations } from './operations.js';

const SHOWN = 8;
const { query } = operations.find(({ title }) => title === 'Watch deliveries live');

/**
 * What becomes of deliveries while somebody tries other examples, which GraphiQL itself cannot show at the same time.
 * `onChoose` is given the id of one.
 */
export function LiveDeliveries({ live, onChoose }) {
  const [watching, setWatching] = useState(false);
  const [changes, setChanges] = useState([]);
  const [failure, setFailure] = useState('');

  useEffect(() => {
    if (!watching) return undefined;
    setFailure('');
    return live.subscribe(
      { query },
      {
        next: (result) => {
          const change = result.data?.deliveryUpdates;
          if (change) setChanges((before) => [change, ...before].slice(0, SHOWN));
          else setFailure(result.errors?.[0]?.message ?? '');
        },
        error: (error) => setFailure(error.message ?? 'the stream has ended'),
        complete: () => setWatching(false),
      },
    );
  }, [live, watching]);

  return (
    <details open={watching} onToggle={(event) => setWatching(event.currentTarget.open)}>
      <summary>Deliveries, live</summary>
      <ol aria-live="polite" className="tidings-live">
        {changes.map(({ cursor, delivery }) => (
          <li key={cursor}>
            <button type="button" title="See every attempt" onClick={() => onChoose(delivery.id)}>
              {delivery.status.toLowerCase()} · {delivery.eventType} · {delivery.lastStatusCode ?? 'no answer yet'}
              <code>{delivery.id}</code>
            </button>
          </li>
        ))}
      </ol>
      <p>{failure || (changes.length === 0 && 'Listening: publish a message.')}</p>
    </details>
  );
}
