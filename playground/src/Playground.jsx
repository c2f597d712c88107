import { useEffect, useMemo, useRef } from 'react';
import { GraphiQL, HISTORY_PLUGIN } from 'graphiql';
import { useGraphiQL, useGraphiQLActions } from '@graphiql/react';

import { fetcherFor, forgetAll, liveFor } from './api.js';
import { LiveDeliveries } from './LiveDeliveries.jsx';
import { operations } from './operations.js';
import { fill, notice } from './placeholders.js';

/** GraphiQL, and beside it the operations of docs/operations. */
export function Playground({ apiKey, viewer }) {
  const { fetcher, plugins } = useMemo(() => {
    const live = liveFor(apiKey);
    const examples = { title: 'Examples', icon: ExamplesIcon, content: () => <Examples live={live} /> };
    return { fetcher: fetcherFor(apiKey, live), plugins: [examples, HISTORY_PLUGIN] };
  }, [apiKey]);
  const leave = () => {
    forgetAll();
    location.reload();
  };
  return (
    <GraphiQL
      fetcher={fetcher}
      // Variables can hold secrets, so nothing outlives the tab.
      storage={sessionStorage}
      plugins={plugins}
      visiblePlugin={plugins[0]}
      defaultTabs={[tabOf(operations[0])]}
      defaultQuery=""
      defaultEditorToolsVisibility="variables"
      isHeadersEditorEnabled={false}
      inputValueDeprecation
      schemaDescription
    >
      <GraphiQL.Logo>
        <span className="tidings-who">
          {viewer.name}
          {viewer.tenant && ` · ${viewer.tenant.name}`}
        </span>
        <button type="button" className="graphiql-un-styled tidings-leave" onClick={leave}>Other key</button>
        <Manners />
      </GraphiQL.Logo>
    </GraphiQL>
  );
}

/** What GraphiQL does not do by itself. */
function Manners() {
  const { setTheme } = useGraphiQLActions();
  const queryEditor = useGraphiQL((state) => state.queryEditor);
  const variableEditor = useGraphiQL((state) => state.variableEditor);
  const theme = useGraphiQL((state) => state.theme);
  const active = useGraphiQL((state) => state.activeTabIndex);
  // What an example is for stands in comments, which are longer than an editor is wide.
  useEffect(() => {
    queryEditor?.updateOptions({ wordWrap: 'on' });
    variableEditor?.updateOptions({ wordWrap: 'on' });
  }, [queryEditor, variableEditor]);
  // GraphiQL leaves the newest of many tabs out of sight.
  useEffect(() => {
    document.querySelector('.graphiql-tab-active')?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }, [active]);
  // Its editors would keep the colours that the system had when they were opened.
  useEffect(() => {
    if (theme) return undefined;
    const dark = window.matchMedia('(prefers-color-scheme: dark)');
    const follow = () => setTheme(null);
    dark.addEventListener('change', follow);
    return () => dark.removeEventListener('change', follow);
  }, [theme, setTheme]);
  return null;
}

function Examples({ live }) {
  const actions = useGraphiQLActions();
  const queryEditor = useGraphiQL((state) => state.queryEditor);
  const variableEditor = useGraphiQL((state) => state.variableEditor);
  const responseEditor = useGraphiQL((state) => state.responseEditor);
  const tabs = useGraphiQL((state) => state.tabs);
  /** The variables that each example was opened with last. */
  const opened = useRef(new Map());
  const open = (operation) => {
    actions.stop();
    const { query, variables = '' } = tabOf(operation);
    const untouched = tabs.findIndex((tab) => tab.query === query && (tab.variables ?? '') === (opened.current.get(query) ?? ''));
    if (untouched < 0) actions.addTab();
    else actions.changeTab(untouched);
    queryEditor?.setValue(query);
    variableEditor?.setValue(variables);
    responseEditor?.setValue('');
    opened.current.set(query, variables);
  };
  const openDelivery = (id) => {
    notice(id);
    open(operations.find(({ title }) => title === 'See why a delivery failed'));
  };
  const runOnShortcut = (event) => {
    if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      actions.run();
    }
  };
  return (
    <section aria-label="Examples" className="tidings-examples" onKeyDown={runOnShortcut}>
      <h2>Examples</h2>
      <p>
        Choose one, run it with ▶ or Ctrl+Enter, go on with the next. Each opens in a tab of its own; ids that answers
        have shown stand in its variables by themselves.
      </p>
      {Object.entries(Object.groupBy(operations, ({ group }) => group)).map(([group, members]) => (
        <details key={group} open={group === operations[0].group}>
          <summary>{group}</summary>
          <ul>
            {members.map((operation) => (
              <li key={operation.title}>
                <button type="button" title={operation.more} onClick={() => open(operation)}>{operation.title}</button>
              </li>
            ))}
          </ul>
        </details>
      ))}
      <LiveDeliveries live={live} onChoose={openDelivery} />
    </section>
  );
}

/** What a tab begins with. */
function tabOf({ query, variables }) {
  return { query, variables: variables && JSON.stringify(fill(JSON.parse(variables)), null, 2) };
}

function ExamplesIcon() {
  return (
    <svg viewBox="0 0 20 20" width="1em" fill="none" stroke="currentColor" strokeWidth="1.5" aria-hidden="true">
      <path d="M3 4.5h2M3 10h2M3 15.5h2M8 4.5h9M8 10h9M8 15.5h9" />
    </svg>
  );
}
