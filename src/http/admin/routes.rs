//! Which handler answers which of the operator's paths?
use actix_web::web::{self, ServiceConfig};

use super::{
    admins, audit, drain, events, groups, keys, limits, models, nodes, queue, reload, requests, series, story, usage,
    user_list, users,
};
use crate::http::resource::{get, post, resource};

pub(in crate::http) fn routes(config: &mut ServiceConfig) {
    accounts(config);
    work(config);
    fleet(config);
    administration(config);
}

/// Users, their keys and limits, and groups.
fn accounts(config: &mut ServiceConfig) {
    config
        .service(
            resource("/admin/users", "GET, HEAD, POST")
                .route(web::get().to(user_list::list))
                .route(web::post().to(users::create)),
        )
        .service(
            resource("/admin/users/{id}", "GET, HEAD, PATCH, DELETE")
                .route(web::get().to(users::retrieve))
                .route(web::patch().to(users::change))
                .route(web::delete().to(users::delete)),
        )
        .service(
            resource("/admin/users/{id}/keys", "GET, HEAD, POST")
                .route(web::get().to(keys::list))
                .route(web::post().to(keys::create)),
        )
        .service(
            resource("/admin/users/{id}/keys/{key_id}", "PATCH, DELETE")
                .route(web::patch().to(keys::change))
                .route(web::delete().to(keys::revoke)),
        )
        .service(post("/admin/users/{id}/keys/{key_id}/rotate").route(web::post().to(keys::rotate)))
        .service(get("/admin/users/{id}/usage").route(web::get().to(users::usage)))
        .service(
            resource("/admin/users/{id}/limits", "GET, HEAD, PUT")
                .route(web::get().to(limits::retrieve))
                .route(web::put().to(limits::change)),
        )
        .service(
            resource("/admin/groups", "GET, HEAD, POST")
                .route(web::get().to(groups::list))
                .route(web::post().to(groups::create)),
        )
        .service(
            resource("/admin/groups/{id}", "GET, HEAD, PATCH, DELETE")
                .route(web::get().to(groups::retrieve))
                .route(web::patch().to(groups::change))
                .route(web::delete().to(groups::delete)),
        );
}

/// What is going on, and what was used.
fn work(config: &mut ServiceConfig) {
    config
        .service(get("/admin/usage").route(web::get().to(usage::report)))
        .service(get("/admin/events").route(web::get().to(events::listen)))
        .service(get("/admin/series").route(web::get().to(series::retrieve)))
        .service(get("/admin/queue").route(web::get().to(queue::list)))
        .service(get("/admin/requests").route(web::get().to(requests::list)))
        .service(
            resource("/admin/requests/{request_id}", "GET, HEAD, DELETE")
                .route(web::get().to(story::explain))
                .route(web::delete().to(requests::stop)),
        );
}

/// Nodes and their models.
fn fleet(config: &mut ServiceConfig) {
    config
        .service(
            resource("/admin/nodes", "GET, HEAD, POST")
                .route(web::get().to(nodes::list))
                .route(web::post().to(nodes::add)),
        )
        .service(
            resource("/admin/nodes/{name}", "GET, HEAD, PATCH, DELETE")
                .route(web::get().to(nodes::retrieve))
                .route(web::patch().to(nodes::change))
                .route(web::delete().to(nodes::remove)),
        )
        .service(post("/admin/nodes/{name}/drain").route(web::post().to(drain::drain)))
        .service(post("/admin/nodes/{name}/undrain").route(web::post().to(drain::undrain)))
        .service(get("/admin/models").route(web::get().to(models::list)))
        .service(post("/admin/models/pull").route(web::post().to(models::pull)))
        .service(post("/admin/models/load").route(web::post().to(models::load)))
        .service(post("/admin/models/unload").route(web::post().to(models::unload)))
        // A model's name may hold slashes.
        .service(resource("/admin/models/{model:.+}", "DELETE").route(web::delete().to(models::delete)));
}

/// Administrators, what they did, and the configuration.
fn administration(config: &mut ServiceConfig) {
    config
        .service(
            resource("/admin/admins", "GET, HEAD, POST")
                .route(web::get().to(admins::list))
                .route(web::post().to(admins::create)),
        )
        .service(
            resource("/admin/admins/{name}", "GET, HEAD, PATCH, DELETE")
                .route(web::get().to(admins::retrieve))
                .route(web::patch().to(admins::change))
                .route(web::delete().to(admins::delete)),
        )
        .service(post("/admin/admins/{name}/rotate").route(web::post().to(admins::rotate)))
        .service(get("/admin/audit").route(web::get().to(audit::list)))
        .service(post("/admin/reload").route(web::post().to(reload::reload)));
}
