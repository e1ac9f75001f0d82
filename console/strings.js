// Every word that the console shows, in one place.
const some = (count, one, many) => (count === 1 ? `1 ${one}` : `${count} ${many}`);
const list = (names, most = 5) =>
  names.length > most ? `${names.slice(0, most).join(", ")} and ${names.length - most} more` : names.join(", ");

export const say = {
  name: "ollama-gateway",
  none: "–", any: "any", action: "Action", again: "Try again", cancel: "Cancel", close: "Close", copy: "Copy",
  copied: "Copied", loading: "Loading…", model: "Model", more: "Show more", refresh: "Refresh", save: "Save",
  search: "Search", show: "Show", signOut: "Sign out", skip: "Skip to the content", user: "User", pagesLabel: "Pages",
  all: (count) => `Show all ${count}`,
  fewer: "Show fewer",
  of: (used, limit) => `${used} of ${limit}`,
  noLimit: (used) => `${used}, no limit`,

  pages: {
    now: "Now", requests: "Requests", users: "Users", groups: "Groups", models: "Models", usage: "Usage", admins: "Administrators",
    changes: "Changes",
    me: "Me",
  },
  roles: { admin: "admin", operator: "operator", viewer: "viewer" },
  error: {
    unreachable: "The gateway does not answer.",
    reload: "A part of the console could not be loaded. Reload the page.",
    status: (status) => `The gateway answered with status ${status}.`,
  },
  keys: { title: "Keyboard", search: "Go to the search field", help: "Show this list", close: "Close a dialog" },
  signIn: {
    key: "Key",
    hint: "An administrator's key opens the whole console, a user's key that user's own page. It is sent once and not kept in the browser.",
    action: "Sign in",
    ended: "The session has ended. Sign in again.",
  },

  verdict: {
    work: (running, queued, longest) => {
      const runs = running ? `${some(running, "request is", "requests are")} running` : "Nothing is running";
      if (!queued) return `${runs} and nothing is waiting.`;
      return longest ? `${runs}, ${queued} waiting, the longest for ${longest}.` : `${runs}, ${queued} waiting.`;
    },
    good: (nodes, work) => `${nodes === 1 ? "The node is up" : `All ${nodes} nodes are up`}. ${work}`,
    down: (all, down, work) => `${down.length} of ${all} nodes ${down.length === 1 ? "is" : "are"} down: ${list(down)}. ${work}`,
    suspect: (names, work) => `${list(names)} ${names.length === 1 ? "is" : "are"} on trial after a failure. ${work}`,
    draining: (all, names, work) => `${names.length} of ${some(all, "node", "nodes")} ${names.length === 1 ? "is" : "are"} draining: ${list(names)}. ${work}`,
    noneServes: (work) => `No node accepts requests. ${work}`,
    noNodes: "There are no nodes yet. Add one with POST /admin/nodes.",
  },
  now: {
    nodes: "Nodes",
    noNodes: "None.",
    stale: (time) => `The connection to the gateway is lost. This page shows the state at ${time}.`,
    noStream: "The gateway does not send its events. Trying again…",
  },
  demo: {
    off: "This is a demo with simulated nodes. Nobody uses it yet.",
    on: "This is a demo with simulated nodes, which simulated people use.",
    start: "Start traffic", stop: "Stop traffic",
  },
  hour: {
    title: "Last hour", of: "Of", fleet: "the whole fleet", running: "Running", waiting: "Waiting",
    tokens_per_second: "Tokens per second", first_token_ms: "First token after", errors_per_minute: "Failures per minute",
    now: (now, most) => `${now}, at most ${most}`,
    unknown: "not known yet",
  },
  happened: {
    title: "Recent events",
    what: ({ kind, node, models, models_left_out: more, why, count }) => {
      const on = node ?? "The fleet";
      const names = list(models, 5) + (more ? ` and ${more} more` : "");
      const sentences = {
        node_up: `${on} is up`,
        node_suspect: `${on} failed once`,
        node_down: `${on} is down`,
        node_draining: `${on} is draining`,
        node_undrained: `${on} accepts requests again`,
        node_joined: `${on} joined`,
        node_left: `${on} left`,
        breaker_open: `${on} is out of use`,
        breaker_closed: `${on} is in use again`,
        breaker_half_open: `${on} is on trial`,
        models_new: `${on} has new models: ${names}`,
        models_gone: `${on} no longer has: ${names}`,
        reloaded: "The configuration was reloaded",
        reload_failed: "The configuration could not be reloaded",
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
    empty: "No model in memory.",
    loading: "loading…",
    share: (model) => `${model}: share of the node's memory`,
    slots: (used, slots) => `${used} of ${slots} slots in use`,
    free: "free slot", other: "a request that this gateway does not carry",
    drain: "Drain",
    drainTitle: (node) => `Drain ${node}`,
    drainText: "The node gets no further requests; what is running there may finish.",
    reasonHint: "Clients read it.", until: "Until", untilHint: "Empty: until somebody undrains it.", edit: "Edit drain",
    maintenance: (reason, until) => `Under maintenance${until ? ` until ${until}` : ""}${reason ? `: ${reason}` : ""}.`,
    undrain: "Undrain",
    undrainTitle: (node) => `Undrain ${node}`,
    undrainText: "The node gets requests again.",
  },
  queue: {
    title: "Queue", position: "Position", waited: "Waited", expected: "Expected in", why: "Why",
    empty: "Nothing is waiting.", emptyHere: "Nothing is waiting at this gateway.",
    elsewhere: (count) => `${some(count, "request waits", "requests wait")} at other gateways, whose consoles list them.`,
  },
  running: {
    title: "Running", since: "For", tokens: "Tokens so far", state: "State",
    empty: "Nothing is running.", emptyHere: "Nothing is running through this gateway.",
    elsewhere: (count) => `${some(count, "request runs", "requests run")} through other gateways, whose consoles list them.`,
  },
  stop: {
    title: "Stop a request",
    action: "Stop",
    text: (user, model) => `${user}'s request for ${model} ends at once. What it has used so far is charged.`,
    own: (model) => `Your request for ${model} ends at once. What it has used so far is charged.`,
    reason: "Reason",
    hint: "The client sees it.",
  },

  statuses: {
    completed: "completed", cancelled: "cancelled", upstream_error: "node failed", deadline: "timed out",
    refused: "refused", interrupted: "interrupted",
  },
  requests: {
    when: "Arrived", status: "Outcome", code: "Code", from: "From", to: "Before", id: "Request id", tokens: "Tokens",
    took: "Duration", http: "HTTP status", first: "First token after", prompt: "Prompt tokens",
    answer: "Answer tokens", endpoint: "Route", none: "No requests.",
  },
  story: {
    back: "All requests",
    steps: "Timeline",
    forgotten: "The steps are no longer remembered, or the request never reached the queue.",
    arrived: "at once",
    left: "a node that has left",
    weighed: (count) => `${some(count, "alternative", "alternatives")} compared`,
    kind: "How",
    kinds: { now: "a slot is free", wait: "wait for a slot", load: "load the model" },
    total: "Total", wait: "Wait", load: "Load", regret: "Others lose", prefill: "Prompt", decode: "Answer",
    what: ({ what, node, attempt, why }) => {
      const on = node ?? "a node that has left";
      const sentences = {
        waits: "It started waiting.",
        asked_for_load: `${on} was asked to load the model.`,
        dispatched: attempt > 1 ? `It went to ${on} (attempt ${attempt}).` : `It went to ${on}.`,
        first_byte: "The node started to answer.",
        failed: `${on} failed: ${why}.`,
        refused: `It was refused: ${why}.`,
        ended: `It ended: ${why}.`,
      };
      return sentences[what] ?? what;
    },
  },

  users: {
    id: "User id", idHint: "Letters, digits, and . _ @ -", find: "Search", sort: "Sort by", make: "Create user",
    made: (user) => `${user} has been created`,
    orders: {
      user_id: "user id", created_at: "newest first", last_seen: "last seen", tokens_today: "tokens today",
      tokens_this_month: "tokens this month",
    },
    none: "No users.", back: "All users", name: "Name", email: "E-mail", note: "Note", group: "Group", since: "Created",
    seen: "Last seen", keys: "Keys", today: "Tokens today", month: "Tokens this month", suspended: "suspended",
    change: "Edit", changeLimits: "Change limits", suspend: "Suspend",
    suspendText: (user) => `${user}'s keys stop working until you resume the user.`,
    resume: "Resume",
    resumeText: (user) => `${user}'s keys work again.`,
    delete: "Delete",
    deleteText: (user) => `${user}'s keys stop working at once, and running requests end. The usage history stays.`,
    requests: "Requests of this user", usage: "Usage of this user",
  },
  groups: {
    id: "Group id", make: "Create group", none: "No groups.", back: "All groups", delete: "Delete", add: "Add a user",
    addText: "From the next request on, the group's limits hold for the user, too.",
    take: "Remove", takeText: (user, group) => `${user} leaves the group ${group}, and its limits no longer hold for the user.`,
    unlimited: "The group has no limits.", usage: "Usage of this group",
    changeTitle: (group) => `Edit ${group}`,
    deleteTitle: (group) => `Delete ${group}`,
    deleteText: (group) => `The users of ${group} leave the group and stay. What it has used stays in the usage.`,
  },
  limits: {
    title: "Limits", none: "no limit", absent: "An empty field gets the default for new users.",
    requests_per_minute: "Requests per minute", tokens_per_minute: "Tokens per minute", tokens_per_day: "Tokens per day",
    tokens_per_month: "Tokens per month", max_concurrency: "Concurrent requests", weight: "Weight",
    weightHint: "Twice the weight is twice the share of a busy service.",
  },
  keysOf: {
    title: "Keys", name: "Name", nameHint: "Where it is used, such as laptop.", key: "Key", made: "Created",
    ends: "Expires", never: "never", used: "Last used", unused: "never", models: "Models",
    modelsHint: "Separated by commas; empty for all.", all: "all", none: "No keys.", make: "Create key",
    shown: (name) => `Key ${name}`,
    once: "Copy the key now: it is shown only this once, and the gateway keeps only a digest of it.",
    secret: "The key", kept: "I have copied it",
    previous: (lastFour, until) => `…${lastFour} is valid until ${until}`,
    rotate: "Rotate",
    rotateTitle: (name) => `Rotate ${name}`,
    rotateText: "The key gets a new secret and keeps its name, limits and expiry.",
    grace: "Keep the old secret valid for", day: "a day", hour: "an hour", week: "a week", now: "no time at all",
    revoke: "Revoke",
    revokeText: (name, owner) => `The key ${name} of ${owner} stops working at once, and requests sent with it end.`,
  },
  models: {
    nodes: "Nodes", none: "No node has a model.", drift: "▲ drift: nodes have different content", loaded: "● in memory",
    pull: "Pull", pullHint: "As in Ollama's library, such as llama3.2:1b.", asked: "asked…", stopPull: "Stop",
    pulled: (succeeded, failed) =>
      failed.length
        ? `${list(failed.sort())} failed${succeeded.length ? `; ${list(succeeded.sort())} succeeded` : ""}.`
        : `Done on ${list(succeeded.sort())}.`,
    load: "Load",
    loadTitle: (model) => `Load ${model}`,
    loadText: "Into the memory of the chosen nodes, until the node or a request for another model evicts it.",
    unload: "Unload",
    unloadTitle: (model) => `Unload ${model}`,
    unloadText: "From the memory of the chosen nodes. Running requests may finish.",
    delete: "Delete",
    deleteTitle: (model) => `Delete ${model}`,
    deleteText: "From the disks of the chosen nodes.",
  },
  usage: {
    by: "By",
    month: "This month against the limits",
    dimensions: { user: "User", group: "Group", model: "Model", node: "Node", day: "Day (UTC)", key: "Key", status: "Outcome" },
    from: "From day", to: "Before day", file: "Download CSV", utc: "Days are UTC days, as on a bill.",
    total: (requests, prompt, answer) => `${requests} requests with ${prompt} prompt tokens and ${answer} answer tokens.`,
    plot: "Tokens by day", plotLabel: "Prompt and answer tokens by day. The table by day has the numbers.",
    requests: "Requests", refused: "Refused", tokens: "Tokens", waited: "Total wait", took: "Total duration",
    none: "No usage.",
    more: (count) => `These are the first ${count} rows; the CSV has all of them.`,
    noKey: "without a key", noNode: "no node", noGroup: "no group",
  },
  admins: {
    name: "Name", role: "Role", none: "Nobody has an administrator's key of their own.", you: "(you)",
    configured: "The admin key of the configuration always works, and is not listed.",
    roles: {
      viewer: "viewer: reads everything", operator: "operator: also works on nodes, models and requests",
      admin: "admin: also changes users, keys and administrators",
    },
    make: "Create administrator", endsHint: "Empty: never.", change: "Edit", rotate: "Rotate", delete: "Delete",
    changeTitle: (name) => `Edit ${name}`,
    rotateText: "The administrator gets a new key, and keeps the role and the expiry.",
    deleteTitle: (name) => `Delete ${name}`,
    deleteText: (name) => `${name}'s key stops working at once, and sessions that were opened with it end.`,
  },
  changes: {
    when: "Time", who: "Administrator", what: "What", target: "Target", method: "Method", route: "Route",
    change: "Change", status: "Outcome", none: "No changes.", begun: "… started",
    outcome: (status) => (status < 400 ? `● done (${status})` : status < 500 ? `✕ refused (${status})` : `✕ failed (${status})`),
    step: (before, after) => (before && after ? `${before} → ${after}` : after ? after : `was ${before}`),
  },
  me: {
    hello: (user, group) => (group ? `You are ${user}, in the group ${group}.` : `You are ${user}.`),
    requestsBack: (time) => `More requests in ${time}.`,
    tokensBack: (time) => `More tokens in ${time}.`,
    group: "Limits of your group",
    open: "Open requests", noneOpen: "You have no open requests.", recent: "Recent requests", try: "Try a model",
    question: "Question", ask: "Ask", answer: "Answer", waiting: "Waiting for the first word…",
    days: "The last seven days", month: "This month by model",
  },
  snippets: { title: "Connect a program", show: "How to use it" },
};
