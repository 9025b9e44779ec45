// The type of a Segue dashboard in Grafana's own types. A test writes `checked.ts` next to it with
// `export const dashboard: Checked = …` and the JSON, and compiles it.

import type { Dashboard, DataQuery, DataSourceRef, Panel, RowPanel } from "@grafana/schema";
import type {
  FieldConfig as Curves,
  Options,
} from "@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen.js";

// A value in JSON, where an enum's members are their values.
type Json<T> = T extends string
  ? `${T}`
  : T extends number
    ? `${T}` extends `${infer N extends number}`
      ? N
      : never
    : T extends (infer Item)[]
      ? Json<Item>[]
      : T extends object
        ? { [Key in keyof T]: Json<T[Key]> }
        : T;

// The only type missing in the package: a Prometheus query.
type Target = Pick<DataQuery, "refId"> & {
  expr: string;
  legendFormat: string;
  datasource: DataSourceRef;
};
type Field = NonNullable<Panel["fieldConfig"]>["defaults"];

interface TimeSeries extends Omit<Panel, "type" | "options" | "fieldConfig" | "targets"> {
  type: "timeseries";
  options: Options;
  fieldConfig: { defaults: Omit<Field, "custom"> & { custom?: Curves }; overrides: never[] };
  targets: Target[];
}

export type Checked = Json<
  Omit<Dashboard, "panels" | "annotations" | "templating"> & {
    panels: (TimeSeries | RowPanel)[];
    annotations: { list: never[] };
    templating: { list: never[] };
  }
>;
