//! Which role does each of the operator's routes take, and what does a change answer if all goes well?
use actix_web::http::Method;

use crate::store::Role;

/// What a route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) struct Rule {
    method: &'static str,
    /// As it is registered.
    path: &'static str,
    /// The least role.
    pub(in crate::http) role: Role,
    /// The status of a change that is made.
    pub(in crate::http) status: u16,
}

const fn read(path: &'static str) -> Rule {
    Rule { method: "GET", path, role: Role::Viewer, status: 200 }
}

const fn rule(method: &'static str, path: &'static str, role: Role, status: u16) -> Rule {
    Rule { method, path, role, status }
}

const RULES: &[Rule] = &[
    read("/admin/users"),
    rule("POST", "/admin/users", Role::Admin, 201),
    read("/admin/users/{id}"),
    rule("PATCH", "/admin/users/{id}", Role::Admin, 200),
    rule("DELETE", "/admin/users/{id}", Role::Admin, 200),
    read("/admin/users/{id}/keys"),
    rule("POST", "/admin/users/{id}/keys", Role::Admin, 201),
    rule("PATCH", "/admin/users/{id}/keys/{key_id}", Role::Admin, 200),
    rule("DELETE", "/admin/users/{id}/keys/{key_id}", Role::Admin, 200),
    rule("POST", "/admin/users/{id}/keys/{key_id}/rotate", Role::Admin, 200),
    read("/admin/users/{id}/usage"),
    read("/admin/users/{id}/limits"),
    rule("PUT", "/admin/users/{id}/limits", Role::Admin, 200),
    read("/admin/groups"),
    rule("POST", "/admin/groups", Role::Admin, 201),
    read("/admin/groups/{id}"),
    rule("PATCH", "/admin/groups/{id}", Role::Admin, 200),
    rule("DELETE", "/admin/groups/{id}", Role::Admin, 200),
    read("/admin/usage"),
    read("/admin/queue"),
    read("/admin/events"),
    read("/admin/series"),
    read("/admin/requests"),
    read("/admin/requests/{request_id}"),
    rule("DELETE", "/admin/requests/{request_id}", Role::Operator, 200),
    read("/admin/nodes"),
    rule("POST", "/admin/nodes", Role::Operator, 201),
    read("/admin/nodes/{name}"),
    rule("PATCH", "/admin/nodes/{name}", Role::Operator, 200),
    rule("DELETE", "/admin/nodes/{name}", Role::Operator, 200),
    rule("POST", "/admin/nodes/{name}/drain", Role::Operator, 200),
    rule("POST", "/admin/nodes/{name}/undrain", Role::Operator, 200),
    read("/admin/models"),
    rule("POST", "/admin/models/pull", Role::Operator, 200),
    rule("POST", "/admin/models/load", Role::Operator, 200),
    rule("POST", "/admin/models/unload", Role::Operator, 200),
    rule("DELETE", "/admin/models/{model:.+}", Role::Operator, 200),
    rule("POST", "/admin/reload", Role::Operator, 200),
    read("/admin/admins"),
    rule("POST", "/admin/admins", Role::Admin, 201),
    read("/admin/admins/{name}"),
    rule("PATCH", "/admin/admins/{name}", Role::Admin, 200),
    rule("DELETE", "/admin/admins/{name}", Role::Admin, 200),
    rule("POST", "/admin/admins/{name}/rotate", Role::Admin, 200),
    read("/admin/audit"),
    read("/admin/demo"),
    rule("PUT", "/admin/demo", Role::Operator, 200),
];

impl Rule {
    /// The rule of a route. One that nobody wrote a rule for takes the highest role.
    pub(in crate::http) fn of(method: &Method, path: &str) -> Self {
        let found = RULES.iter().find(|rule| rule.method == method.as_str() && rule.path == path);
        found.copied().unwrap_or(rule("", "", Role::Admin, 200))
    }
}

/// To whom or what a request to `path` is done, by the variables of its route.
pub(in crate::http) fn target_of(route: &str, path: &str) -> String {
    const LONGEST: usize = 256;
    let mut parts = path.split('/');
    let mut target: Vec<&str> = Vec::new();
    for template in route.split('/') {
        match (template.starts_with('{'), parts.next()) {
            (true, Some(part)) => target.push(part),
            (true, None) => break,
            (false, _) => {}
        }
    }
    // The last variable of a route may hold slashes.
    if route.ends_with('}') {
        target.extend(parts);
    }
    target.join("/").chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_without_a_rule_is_for_the_highest_role() {
        assert_eq!(Rule::of(&Method::DELETE, "/admin/unheard-of").role, Role::Admin);
        assert_eq!(Rule::of(&Method::GET, "/admin/users").role, Role::Viewer);
        assert_eq!(Rule::of(&Method::POST, "/admin/users").status, 201);
        let mut keys: Vec<_> = RULES.iter().map(|rule| (rule.method, rule.path)).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), RULES.len(), "each route once");
    }

    #[test]
    fn the_target_is_what_stands_for_the_variables() {
        for (route, path, target) in [
            ("/admin/users", "/admin/users", ""),
            ("/admin/users/{id}", "/admin/users/ann", "ann"),
            ("/admin/users/{id}/keys/{key_id}/rotate", "/admin/users/ann/keys/key_1/rotate", "ann/key_1"),
            ("/admin/models/{model:.+}", "/admin/models/hf.co/a/b:q4", "hf.co/a/b:q4"),
            ("/admin/users/{id}", "/admin", ""),
        ] {
            assert_eq!(target_of(route, path), target);
        }
        assert_eq!(target_of("/admin/users/{id}", &format!("/admin/users/{}", "x".repeat(1000))).len(), 256);
    }
}
