//! Who may touch what we make, and whether strangers may break it all the same.

use crate::plan;
use crate::zookeeper::record::{Acl, Id};

/// All permissions.
const ALL: i32 = 31;

/// Permissions on a parent that let a stranger take the locks below it or break them: CREATE,
/// DELETE, ADMIN.
const MEDDLE: i32 = 4 | 8 | 16;

/// The ACL of what we make.
pub(super) fn of(acl: plan::Acl) -> Vec<Acl> {
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

/// What to say of a parent with this ACL, if it leaves locks that are to be their creators' open to
/// strangers: deleting a node is a matter of the node above it, whatever its own ACL says.
pub(super) fn warning(parent: &str, acl: &[Acl]) -> Option<String> {
    let anyone = Id {
        scheme: "world".into(),
        id: "anyone".into(),
    };
    acl.iter().any(|entry| entry.id == anyone && entry.perms & MEDDLE != 0).then(|| {
        format!(
            "anyone may delete the locks in {parent}, \"acl\": \"creator\" or not, for that node is open to all: in zkCli.sh, \
             after `addauth` as in the config, `setAcl {parent} auth::cdrwa` closes it"
        )
    })
}
