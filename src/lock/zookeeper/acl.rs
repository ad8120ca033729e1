//! The ACL of new nodes, and a warning if it does not protect them.

use crate::plan;
use crate::zookeeper::record::{Acl, Id};

/// All permissions.
const ALL: i32 = 31;

/// Permissions on a node: to read it, and to write its data.
const READ: i32 = 1;
const WRITE: i32 = 2;

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

/// The ACL of a request to release a lock. A holder with other credentials than those of the asker
/// must be able to read it and to answer. Who may ask is decided by the ACL of the container.
pub fn of_request(acl: plan::Acl) -> Vec<Acl> {
    let mut all = of(acl);
    if acl == plan::Acl::Creator {
        all.push(Acl {
            perms: READ | WRITE,
            id: Id {
                scheme: "world".into(),
                id: "anyone".into(),
            },
        });
    }
    all
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_can_be_read_and_answered_by_any_holder() {
        for acl in [plan::Acl::Open, plan::Acl::Creator] {
            let any = of_request(acl);
            let anyone = any.iter().filter(|entry| entry.id.scheme == "world");
            let perms = anyone.fold(0, |perms, entry| perms | entry.perms);
            assert_eq!(perms & (READ | WRITE), READ | WRITE, "{acl:?}");
        }
        assert_eq!(of_request(plan::Acl::Open), of(plan::Acl::Open));
        let creator = of_request(plan::Acl::Creator);
        assert!(
            creator
                .iter()
                .any(|entry| entry.perms == ALL && entry.id.scheme == "auth")
        );
    }
}
