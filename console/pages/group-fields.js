// What is asked for of a group, in the form that makes one and in the form that changes one?
import { html } from "../html.js";
import { Field } from "../parts.js";
import { say } from "../strings.js";
import { LimitFields, modelsOf, names, whole } from "./limits.js";

export function GroupFields({ of = null }) {
  return html`<${LimitFields} of=${of} only=${[...names, "tokens_per_month"]} />
    <${Field} label=${say.limits.weight} hint=${say.limits.weightHint} name="weight" type="number" min="0.001" max="1000" step="any" defaultValue=${of?.weight ?? 1} required />
    <${Field} label=${say.keysOf.models} hint=${say.keysOf.modelsHint} name="models" defaultValue=${of?.allowed_models?.join(", ") ?? ""} wide />`;
}

/** The form's values: an empty field is no limit, or every model. */
export const groupOf = (data) => ({ ...whole(data), weight: Number(data.get("weight")), allowed_models: modelsOf(data) });
