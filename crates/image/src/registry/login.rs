//! Whether a registry accepts credentials, asked before they are kept.

use std::sync::Arc;

use reqwest::{Method, Response, Url};

use super::{
    Action, Auth, Clients, RegistryError, Session,
    auth::{Challenge, challenges},
    http::host,
};
use crate::name::Reference;

/// Asks the registry of `reference` whether it accepts `auth` (distribution
/// specification, "Determining Support").
///
/// # Errors
/// [`RegistryError::LoginRefused`] if it does not.
pub(crate) async fn check(
    clients: &Clients,
    reference: &Reference,
    auth: Auth,
) -> Result<(), RegistryError> {
    let session = Session::new(clients, reference, auth, Arc::default(), Action::Pull)?;
    let url = session.root();
    let ask = || session.plain(&url, "its interface");
    let answer = ask().await?;
    let answer = match answer.status().as_u16() {
        401 => {
            // No repository is at hand, so a token needs no scope.
            let offered =
                challenges(answer.headers())
                    .into_iter()
                    .map(|challenge| match challenge {
                        Challenge::Bearer { realm, service, .. } => Challenge::Bearer {
                            realm,
                            service,
                            scope: Some(String::new()),
                        },
                        Challenge::Basic => Challenge::Basic,
                    });
            let offered: Vec<Challenge> = offered.collect();
            session
                .authorize(&offered, &session.authorization())
                .await
                .map_err(refused)?;
            ask().await?
        }
        _ => answer,
    };
    match answer.status().as_u16() {
        200..300 => Ok(()),
        401 => Err(refused(session.unauthorized(""))),
        429 => Err(RegistryError::RateLimited {
            host: host(&url),
            seconds: None,
        }),
        status => Err(RegistryError::Status {
            host: host(&url),
            status,
            what: "its interface (/v2/); is it a registry?".to_owned(),
            seconds: None,
        }),
    }
}

impl Session<'_> {
    /// One request without a body, with what the registry has accepted last.
    async fn plain(&self, url: &Url, what: &'static str) -> Result<Response, RegistryError> {
        let authorization = self.authorization();
        let request = self.request(Method::GET, url, authorization.as_ref())?;
        self.clients().send(request, url, what).await
    }
}

fn refused(error: RegistryError) -> RegistryError {
    match error {
        RegistryError::Unauthorized { host, who, .. } => RegistryError::LoginRefused { host, who },
        other => other,
    }
}
