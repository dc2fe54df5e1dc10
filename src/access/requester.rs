//! Somebody who asks for something: what the upstream says of them, and what it says to them.

use std::sync::Arc;
use std::time::Duration;

use super::memory::Name;
use super::{Access, Credentials, EVERYBODY, Identity, Permissions};
use crate::error::Error;
use crate::kinto::{DEFAULT_BUCKET, RequestPath};
use crate::upstream::kinto::Source;
use crate::upstream::{Description, Upstream, UpstreamError};

/// Somebody who asks, and the connections on which the upstream is asked about them.
#[derive(Debug, Clone)]
pub struct Requester {
    pub(super) access: Access,
    /// Who they claim to be.
    pub credentials: Credentials,
}

impl Requester {
    /// Whether they show none.
    pub fn is_anonymous(&self) -> bool {
        self.credentials.is_anonymous()
    }

    /// Asks the upstream as they would.
    pub fn source(&self) -> Source {
        Source::on_behalf(self.upstream().clone(), self.credentials.headers())
    }

    /// The connections on which the upstream is asked.
    pub fn upstream(&self) -> &Upstream {
        &self.access.0.upstream
    }

    pub(super) fn permissions(&self) -> &Permissions {
        &self.access.0.permissions
    }

    /// Who they are, as the upstream said it no longer than twice `sidecar.permission_ttl` ago.
    pub async fn identity(&self) -> Result<Identity, Error> {
        self.identity_within(self.permissions().ttl()).await
    }

    /// Who they are as an author, as the upstream said it no longer than `sidecar.permission_ttl` ago.
    pub async fn author(&self) -> Result<Option<String>, Error> {
        if self.is_anonymous() {
            return Ok(None);
        }
        Ok(self.identity_within(self.permissions().ttl() / 2).await?.user_id)
    }

    /// Who they are from now on.
    pub async fn author_by_now(&self) -> Result<Option<String>, Error> {
        Ok(self.identity_within(Duration::ZERO).await?.user_id)
    }

    async fn identity_within(&self, ttl: Duration) -> Result<Identity, Error> {
        let name = Name::new("identity", &[], &self.credentials);
        let epoch = self.access.epoch_for(EVERYBODY, &self.credentials);
        let question = || {
            let requester = self.clone();
            async move { ask_for_identity(&requester).await }
        };
        let permissions = self.permissions();
        Ok(permissions.identities.get(name, &epoch, ttl, || None, question).await?)
    }

    /// Their user id, where the upstream was asked for it already. Who somebody is does not change with what they may do.
    pub fn known_user(&self) -> Option<String> {
        let name = Name::new("identity", &[], &self.credentials);
        self.permissions().identities.look(name, |identity| identity.user_id.clone()).flatten()
    }

    /// Their own bucket, where a path leads into it. Where the upstream does not say which it is, nobody knows what a write
    /// there is about.
    pub async fn default_bucket(&self, path: &RequestPath) -> Result<Option<Arc<str>>, Error> {
        if !path.is_in_default_bucket() {
            return Ok(None);
        }
        Ok(self.identity().await?.default_bucket)
    }

    /// The bucket that they mean: `default` is a name for one of their own. Where the upstream knows of no such alias, or they
    /// have no such bucket, it will say so itself.
    pub async fn resolve(&self, bucket: &Arc<str>) -> Result<Arc<str>, Error> {
        let own = if &**bucket == DEFAULT_BUCKET { self.identity().await?.default_bucket } else { None };
        Ok(own.unwrap_or_else(|| Arc::clone(bucket)))
    }

    /// Refuses those who have none of these principals.
    pub async fn check_principals(&self, principals: &[String]) -> Result<(), Error> {
        match self.has_principal(principals).await? {
            true => Ok(()),
            false if self.is_anonymous() => Err(Error::Unauthorized),
            false => Err(Error::Forbidden),
        }
    }

    /// Whether they have one of these principals.
    pub async fn has_principal(&self, principals: &[String]) -> Result<bool, Error> {
        if principals.iter().any(|principal| principal == "system.Everyone") {
            return Ok(true);
        }
        if self.is_anonymous() {
            return Ok(false);
        }
        let identity = self.identity().await?;
        Ok(identity.principals.iter().any(|principal| principals.contains(principal)))
    }
}

async fn ask_for_identity(requester: &Requester) -> Result<Identity, UpstreamError> {
    let root = Description::read(&requester.source().get("/").await?)?;
    let user = root.user.unwrap_or_default();
    Ok(Identity {
        default_bucket: user.bucket.filter(|_| user.id.is_some()).map(Into::into),
        user_id: user.id,
        principals: user.principals,
    })
}
