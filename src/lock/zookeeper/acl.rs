//! The ACL of new nodes, and a warning if it does not protect them.

use crate::plan;
use crate::zookeeper::record::{Acl, Id};

/// All permissions.
const ALL: i32 = 31;

/// Permissions on a parent that allow other clients to acquire or break the locks below it: CREATE,
/// DELETE, ADMIN.
const MEDDLE: i32 = 4 | 8 | 16;

/// The ACL of new nodes.
pub fn of(acl: plan::Acl) -> Vec<Acl> {
    let (scheme, id) = match acl {
        plan::Acl::Open => ("world", "anyone"),
        plan::Acl::Creator => ("auth", ""),
    };
    vec![Acl {
        perms: ALL,
        id: Id {
            scheme: scheme.into(),
            id: id.into(),
        },
    }]
}

/// A warning if this ACL of a parent leaves the locks of `"acl": "creator"` open: who may delete a
/// node is decided by the ACL of the node above it.
pub(super) fn warning(parent: &str, acl: &[Acl]) -> Option<String> {
    let anyone = Id {
        scheme: "world".into(),
        id: "anyone".into(),
    };
    acl.iter().any(|entry| entry.id == anyone && entry.perms & MEDDLE != 0).then(|| {
        format!(
            "any client may delete the locks in {parent} despite \"acl\": \"creator\", because that node is open to all: to close it, run \
             `setAcl {parent} auth::cdrwa` in zkCli.sh, after `addauth` as in the config"
        )
    })
}
