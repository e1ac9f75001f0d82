// Every word that the console shows, in one place.
const some = (count, one, many) => (count === 1 ? `1 ${one}` : `${count} ${many}`);
const list = (names, most = 5) =>
  names.length > most ? `${names.slice(0, most).join(", ")} and ${names.length - most} more` : names.join(", ");

export const say = {
  name: "ollama-gateway",
  none: "–",
  any: "any",
  action: "Action",
  again: "Try again",
  cancel: "Cancel",
  close: "Close",
  copy: "Copy",
  copied: "Copied",
  loading: "Loading…",
  model: "Model",
  more: "Show more",
  refresh: "Refresh",
  save: "Save",
  search: "Search",
  show: "Show",
  signOut: "Sign out",
  skip: "Skip to the content",
  user: "User",
  pagesLabel: "Pages",
  of: (used, limit) => `${used} of ${limit}`,
  noLimit: (used) => `${used}, no limit`,

  pages: {
    now: "Now", requests: "Requests", users: "Users", groups: "Groups", models: "Models", usage: "Usage", changes: "Changes", me: "Me",
  },
  roles: { admin: "admin", operator: "operator", viewer: "viewer" },
  error: {
    unreachable: "The gateway does not answer.",
    reload: "A part of the console could not be loaded. Reload the page.",
    status: (status) => `The gateway answered with status ${status}.`,
  },
  keys: { title: "Keyboard", search: "To the search field", help: "This list", close: "Close a dialog" },
  signIn: {
    key: "Key",
    hint: "An administrator's key opens the whole console, a user's key that user's own page. It is sent once and not kept in the browser.",
    action: "Sign in", ended: "The session has ended. Sign in again.",
  },

  verdict: {
    work: (running, queued, longest) =>
      queued
        ? `${some(running, "request runs", "requests run")}, ${queued} wait, the longest for ${longest}.`
        : `${running ? some(running, "request runs", "requests run") : "Nothing runs"}, and nobody waits.`,
    good: (nodes, work) => `${nodes === 1 ? "The node is up" : `All ${nodes} nodes are up`}. ${work}`,
    down: (all, down, work) => `${down.length} of ${all} nodes ${down.length === 1 ? "is" : "are"} down: ${list(down)}. ${work}`,
    suspect: (names, work) => `${list(names)} ${names.length === 1 ? "is" : "are"} on trial after a failure. ${work}`,
    draining: (all, names, work) => `${list(names)} ${names.length === 1 ? "takes" : "take"} nothing new, of ${some(all, "node", "nodes")}. ${work}`,
    noneServes: (work) => `No node takes requests. ${work}`,
    noNodes: "There are no nodes yet. Add one with POST /admin/nodes.",
  },
  now: {
    nodes: "Nodes", noNodes: "None.",
    stale: (time) => `The connection to the gateway is cut. This is how things stood at ${time}.`,
    noStream: "The gateway does not send its events. Trying again…",
  },
  happened: {
    title: "Last changes of the fleet",
    what: ({ kind, node, models, models_left_out: more, why, count }) => {
      const on = node ?? "The fleet";
      const names = list(models, 5) + (more ? ` and ${more} more` : "");
      const sentences = {
        node_up: `${on} is up`,
        node_suspect: `${on} failed once`,
        node_down: `${on} is down`,
        node_draining: `${on} drains`,
        node_maintenance: `${on} is under maintenance`,
        node_undrained: `${on} takes requests again`,
        node_joined: `${on} joined`,
        node_left: `${on} left`,
        breaker_open: `${on} is out of use`,
        breaker_closed: `${on} is in use again`,
        breaker_half_open: `${on} is on trial`,
        models_new: `${on} has new models: ${names}`,
        models_gone: `${on} has no longer: ${names}`,
        reloaded: "The configuration was read anew",
      };
      return `${sentences[kind] ?? `${on}: ${kind}`}${why ? `: ${why}` : ""}${count > 1 ? ` (${count} times)` : ""}.`;
    },
  },
  states: { up: "● up", suspect: "▲ on trial", draining: "◼ draining", down: "✕ down" },
  node: {
    title: "Node",
    since: (ago) => `since ${ago}`,
    unheard: "not heard of yet",
    speed: (speed) => `${speed} tokens/s`,
    empty: "No model in memory.", loading: "loading…",
    share: (model) => `${model}: share of the node's memory`,
    slots: (used, slots) => `${used} of ${slots} slots in use`,
    free: "free slot", drain: "Drain", undrain: "Undrain",
    drainTitle: (node) => `Drain ${node}`,
    drainText: "It gets no further requests; what runs there may end.",
    undrainTitle: (node) => `Undrain ${node}`,
    undrainText: "It gets requests again.", reason: "Reason",
    reasonHint: "Clients read it when no other node has their model.", until: "Until",
  },
  queue: {
    title: "Queue", position: "Place", waited: "Waited", expected: "Expected in", why: "Why", empty: "Nobody waits.",
    all: (count) => `Show all ${count}`,
    fewer: "Show fewer",
  },
  running: { title: "Running", since: "For", tokens: "Tokens so far", state: "State", empty: "Nothing runs." },
  stop: {
    title: "Stop a request", action: "Stop",
    text: (user, model) => `The request of ${user} for ${model} ends at once. What it used up to now is charged.`,
    own: (model) => `Your request for ${model} ends at once. What it used up to now is charged.`,
    reason: "Reason", hint: "Its client reads it.",
  },

  statuses: {
    completed: "completed", cancelled: "cancelled", upstream_error: "node failed", deadline: "too slow", refused: "refused", interrupted: "interrupted",
  },
  requests: {
    when: "Arrived", status: "Ended", code: "Code", from: "From", to: "Before", id: "Request id", tokens: "Tokens",
    took: "Took", http: "HTTP status", first: "First token after", prompt: "Prompt tokens", answer: "Answer tokens",
    endpoint: "Route", none: "No request.",
  },
  story: {
    back: "All requests", steps: "What happened",
    forgotten: "The steps are not remembered any more, or it never came to the queue.", arrived: "at once",
    left: "a node that has left",
    weighed: (count) => `What was weighed up: ${some(count, "way", "ways")}`,
    kind: "How",
    kinds: { now: "a slot is free", wait: "wait for a slot", load: "load the model" },
    total: "In all", wait: "Wait", load: "Load", regret: "Others lose", prefill: "Prompt", decode: "Answer",
    what: ({ what, node, attempt, why }) => {
      const on = node ?? "a node that has left";
      const sentences = {
        waits: "It began to wait.",
        asked_for_load: `${on} was asked to load the model.`,
        dispatched: attempt > 1 ? `It went to ${on}, as attempt ${attempt}.` : `It went to ${on}.`,
        first_byte: "The node began to answer.",
        failed: `${on} failed: ${why}.`,
        refused: `It was refused: ${why}.`,
        ended: `It ended: ${why}.`,
      };
      return sentences[what] ?? what;
    },
  },

  users: {
    id: "User id", idHint: "Letters, digits, and . _ @ -", filter: "Filter by id", make: "Make a user",
    made: (user) => `${user} is made`,
    none: "No user.", back: "All users", name: "Name", email: "E-mail", note: "Note", group: "Group", since: "Made",
    seen: "Last seen", suspended: "suspended", change: "Change", changeLimits: "Change limits", suspend: "Suspend",
    suspendText: (user) => `The keys of ${user} stop working until the user is resumed.`,
    resume: "Resume",
    resumeText: (user) => `The keys of ${user} work again.`,
    delete: "Delete",
    deleteText: (user) => `The keys of ${user} stop working at once, and running requests end. The usage history stays.`,
    requests: "Requests of this user", usage: "Usage of this user",
  },
  limits: {
    title: "Limits", none: "no limit", absent: "A field that is left empty gets the default for new users.",
    requests_per_minute: "Requests a minute", tokens_per_minute: "Tokens a minute", tokens_per_day: "Tokens a day",
    tokens_per_month: "Tokens a month", max_concurrency: "Requests at a time", weight: "Weight",
    weightHint: "Twice the weight is twice the share of a busy service.",
  },
  keysOf: {
    title: "Keys", name: "Name", nameHint: "Where it is used, such as laptop.", key: "Key", made: "Made",
    ends: "Ends", never: "never", used: "Last used", unused: "never", models: "Models",
    modelsHint: "By commas; empty for all of them.", all: "all", none: "No key.", make: "Make a key",
    shown: (name) => `The key ${name}`,
    once: "Copy the key now: it is shown this once, and only a digest of it is kept.", secret: "The key",
    kept: "I have copied it",
    previous: (lastFour, until) => `…${lastFour} works until ${until}`,
    rotate: "Rotate",
    rotateTitle: (name) => `Rotate ${name}`,
    rotateText: "The key gets a new secret. Its name, its limits and its end stay.",
    grace: "The old secret works on for", day: "a day", hour: "an hour", week: "a week", now: "no time: it stops now",
    revoke: "Revoke",
    revokeText: (name, owner) => `The key ${name} of ${owner} stops working at once, and requests that came with it end.`,
  },
  groups: {
    id: "Group id", make: "Make a group", change: "Change",
    changeTitle: (group) => `Change ${group}`,
    delete: "Delete",
    deleteText: (group) => `The users of ${group} belong to no group afterwards.`,
    none: "No group.",
  },
  models: {
    nodes: "Nodes", none: "No node has a model.", drift: "▲ drift: nodes have different content",
    loaded: "● in memory", pull: "Pull", pullHint: "As in Ollama's library, such as llama3.2:1b.", asked: "asked…",
    stopPull: "Stop",
    pulled: (succeeded, failed) =>
      failed.length ? `${list(failed)} failed${succeeded.length ? `; ${list(succeeded)} succeeded` : ""}.` : `Done on ${list(succeeded.sort())}.`,
    load: "Load",
    loadTitle: (model) => `Load ${model}`,
    loadText: "Into the memory of the chosen nodes, until the node or another model's request unloads it.",
    unload: "Unload",
    unloadTitle: (model) => `Unload ${model}`,
    unloadText: "From the memory of the chosen nodes. Requests that run may end.", delete: "Delete",
    deleteTitle: (model) => `Delete ${model}`,
    deleteText: "From the disks of the chosen nodes.",
  },
  usage: {
    by: "By",
    dimensions: { user: "User", model: "Model", node: "Node", day: "Day (UTC)", key: "Key", status: "Ended" },
    from: "From day", to: "Before day", file: "As CSV", utc: "Days are days in UTC, as on a bill.",
    total: (requests, prompt, answer) => `${requests} requests with ${prompt} prompt tokens and ${answer} answer tokens.`,
    plot: "Tokens by day", plotLabel: "Prompt and answer tokens by day. The table by day has the numbers.",
    requests: "Requests", refused: "Refused", tokens: "Tokens", waited: "Waited in all", took: "Took in all",
    none: "Nothing was used.",
    more: (count) => `The first ${count} rows; the file has all of them.`,
    noKey: "without a key", noNode: "no node",
  },
  changes: {
    who: "Who", what: "What", target: "Of what", change: "Change", from: "from", to: "to", none: "Nothing was changed.",
  },
  me: {
    hello: (user, group) => (group ? `You are ${user}, of the group ${group}.` : `You are ${user}.`),
    you: "yours",
    requestsBack: (time) => `More requests in ${time}.`,
    tokensBack: (time) => `More tokens in ${time}.`,
    open: "What runs and waits", noneOpen: "Nothing of yours runs or waits.", recent: "What has ended",
    try: "Try a model", question: "Question", ask: "Ask", answer: "Answer", waiting: "Waiting for the first word…",
    days: "The last seven days", month: "This month by model",
  },
  snippets: { title: "Connect a program", show: "How to use it" },
};
