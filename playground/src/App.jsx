import { useEffect, useState } from 'react';

import { forgetAll, keepKey, keptKey, Refusal, whoIs } from './api.js';
import { Playground } from './Playground.jsx';

/** Asks for a key first: without one the server answers nothing, not even what its schema is. */
export function App() {
  const [key, setKey] = useState(keptKey);
  const [viewer, setViewer] = useState(null);
  const [refusal, setRefusal] = useState('');

  useEffect(() => {
    if (!key) return;
    let current = true;
    whoIs(key).then(
      (found) => {
        if (!current) return;
        keepKey(key);
        setViewer(found);
      },
      (error) => {
        if (!current) return;
        // A server that is down says nothing about the key.
        if (error instanceof Refusal) forgetAll();
        setKey('');
        setRefusal(error.message);
      },
    );
    return () => {
      current = false;
    };
  }, [key]);

  if (viewer) return <Playground apiKey={key} viewer={viewer} />;
  return <KeyForm busy={Boolean(key)} refusal={refusal} onKey={setKey} />;
}

function KeyForm({ busy, refusal, onKey }) {
  const [text, setText] = useState(keptKey);
  const submit = (event) => {
    event.preventDefault();
    onKey(keyIn(text));
  };
  return (
    <main className="tidings-door">
      <h1>Tidings playground</h1>
      <p id="why">
        An API key is needed. The first start of the server printed one: <code>bootstrap key (shown once): tdk_…</code>
      </p>
      <form onSubmit={submit}>
        <label htmlFor="key">API key</label>
        <input
          id="key" type="password" autoComplete="off" spellCheck="false" placeholder="tdk_…" autoFocus required
          aria-describedby="why" value={text} disabled={busy} onChange={(event) => setText(event.target.value)}
        />
        <button type="submit" disabled={busy}>{busy ? 'Asking…' : 'Open'}</button>
      </form>
      <p role="alert" className="tidings-refusal">{refusal}</p>
      <p>The key stays in this tab, until it is closed. <a href="../graphql/schema.graphql">The schema</a> needs none.</p>
      <p><a href="licences.md">Licences</a> of the libraries that this page is made of.</p>
    </main>
  );
}

/** The key alone, also where the whole line was pasted that the server printed. */
const keyIn = (text) => /\btdk_\w+/.exec(text)?.[0] ?? text.trim();
