// How are numbers, sizes and times written? As the reader's own language does it; bills by days in UTC.
import { say } from "./strings.js";

const whole = new Intl.NumberFormat();
const short = new Intl.NumberFormat(undefined, { notation: "compact", maximumFractionDigits: 1 });
const tenth = new Intl.NumberFormat(undefined, { maximumFractionDigits: 1 });
const percentage = new Intl.NumberFormat(undefined, { style: "percent", maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const utcDay = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeZone: "UTC" });
const ago = new Intl.RelativeTimeFormat(undefined, { numeric: "always", style: "short" });
const unit = (unit, digits = 1) =>
  new Intl.NumberFormat(undefined, { style: "unit", unit, unitDisplay: "short", maximumFractionDigits: digits });
const units = { second: unit("second"), minute: unit("minute", 0), hour: unit("hour"), day: unit("day"), ms: unit("millisecond", 0) };

const or = (value, write) => (value === null || value === undefined ? say.none : write(value));

export const number = (value) => or(value, whole.format);
export const compact = (value) => or(value, short.format);
export const decimal = (value) => or(value, tenth.format);
export const percent = (value) => or(value, percentage.format);
/** GB are 10^9 bytes, as in the settings. */
export const gigabytes = (bytes) => or(bytes, (bytes) => `${tenth.format(bytes / 1e9)} GB`);
export const time = (text) => or(text, (text) => clock.format(new Date(text)));
/** The moment of a field with a local time, as the gateway wants it. */
export const moment = (text) => (text ? new Date(text).toISOString() : undefined);
/** The same the other way round; nothing for no moment. */
export const local = (text) => {
  const at = new Date(text ?? NaN);
  return Number.isNaN(+at) ? "" : new Date(at - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 16);
};
/** A day of a report: a date in UTC. */
export const day = (date) => or(date, (date) => utcDay.format(new Date(`${date}T00:00:00Z`)));

export function duration(ms) {
  return or(ms, (ms) => {
    if (ms < 1000) return units.ms.format(Math.round(ms));
    if (ms < 60_000) return units.second.format(ms / 1000);
    if (ms < 3_600_000) return units.minute.format(ms / 60_000);
    return ms < 86_400_000 ? units.hour.format(ms / 3_600_000) : units.day.format(ms / 86_400_000);
  });
}

export function since(text, now = Date.now()) {
  return or(text, (text) => {
    const seconds = Math.round((new Date(text) - now) / 1000);
    for (const [unit, length] of [["day", 86_400], ["hour", 3600], ["minute", 60]]) {
      if (Math.abs(seconds) >= length) return ago.format(Math.trunc(seconds / length), unit);
    }
    return ago.format(seconds, "second");
  });
}

/** A date in UTC, `days` from today, as reports take it. */
export const dateFromToday = (days) => new Date(Date.now() + days * 86_400_000).toISOString().slice(0, 10);
/** The first day of this month in UTC. */
export const monthBegin = () => `${new Date().toISOString().slice(0, 7)}-01`;
