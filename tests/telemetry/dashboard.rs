//! The Grafana dashboard has the form that Grafana reads. Its schemas are in `grafana`.

use serde_json::{Value, json};

const DASHBOARD: &str = include_str!("../../dist/grafana-dashboard.json");

/// The schema of dashboards, panel types and queries.
fn schema(name: &str) -> Value {
    let text = match name {
        "dashboard" => include_str!("grafana/dashboard.json"),
        "timeseries" => include_str!("grafana/timeseries.json"),
        "stat" => include_str!("grafana/stat.json"),
        "prometheus" => include_str!("grafana/prometheus.json"),
        other => panic!("no schema of panels of type {other:?}: add it to tests/telemetry/grafana"),
    };
    serde_json::from_str(text).expect("a schema")
}

/// What a schema's definition, or the schema itself, has against a value.
fn mistakes(schema: &Value, definition: Option<&str>, value: &Value) -> Vec<String> {
    let mut schema = schema.clone();
    if let Some(name) = definition {
        schema["$ref"] = json!(format!("#/definitions/{name}"));
    }
    let validator = jsonschema::validator_for(&schema).expect("a valid schema");
    validator.iter_errors(value).map(|it| format!("{}: {it}", it.instance_path())).collect()
}

/// Everything that Grafana's schemas have against a dashboard.
fn all_mistakes(dashboard: &Value) -> Vec<String> {
    let mut all = mistakes(&schema("dashboard"), None, dashboard);
    for panel in dashboard["panels"].as_array().expect("panels") {
        let kind = panel["type"].as_str().expect("a type");
        if kind == "row" {
            continue;
        }
        let of_kind = schema(kind);
        let mut found = mistakes(&of_kind, Some("Options"), &panel["options"]);
        if let Some(custom) = panel["fieldConfig"]["defaults"].get("custom") {
            found.extend(mistakes(&of_kind, Some("FieldConfig"), custom));
        }
        let targets = panel["targets"].as_array().expect("queries");
        found.extend(targets.iter().flat_map(|it| mistakes(&schema("prometheus"), None, it)));
        all.extend(found.iter().map(|mistake| format!("{}: {mistake}", panel["title"])));
    }
    all
}

#[test]
fn the_dashboard_fits_grafanas_schemas() {
    let dashboard = serde_json::from_str(DASHBOARD).expect("JSON");

    assert_eq!(all_mistakes(&dashboard), Vec::<String>::new());
}

#[test]
fn what_grafana_does_not_know_is_found_wherever_it_stands() {
    let whole: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = whole["panels"].as_array().expect("panels");
    let first = |kind: &str| panels.iter().position(|panel| panel["type"] == kind).expect(kind);
    let series = format!("/panels/{}", first("timeseries"));
    let stat = format!("/panels/{}", first("stat"));
    for (place, wrong) in [
        ("/refresh".to_owned(), json!(30)),
        (format!("{series}/gridPos/w"), json!(25)),
        (format!("{series}/gridPos/w"), json!("wide")),
        (format!("{series}/options/legend/displayMode"), json!("lists")),
        (format!("{series}/fieldConfig/defaults"), json!({"custom": {"drawStyle": "dots"}})),
        (format!("{series}/targets/0/expr"), json!(["up"])),
        (format!("{stat}/options/graphMode"), json!("bars")),
    ] {
        let mut dashboard = whole.clone();
        let value = dashboard.pointer_mut(&place).unwrap_or_else(|| panic!("no {place}"));
        *value = wrong;

        assert!(!all_mistakes(&dashboard).is_empty(), "{place}");
    }
}

#[test]
fn panels_have_places_of_their_own_within_24_columns() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut taken = std::collections::BTreeMap::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        assert!(at("x") + at("w") <= 24, "{}", panel["title"]);
        for column in at("x")..at("x") + at("w") {
            for row in at("y")..at("y") + at("h") {
                let before = taken.insert((column, row), panel["title"].clone());
                assert_eq!(before, None, "below {}", panel["title"]);
            }
        }
    }
}
