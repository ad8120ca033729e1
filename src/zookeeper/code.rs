//! Numbers of the protocol: operations (ZooDefs.OpCode), special xids, flags of a create and error
//! codes (KeeperException.Code). Each error has a message for the operator.

use std::fmt;

/// Operation codes.
#[allow(missing_docs)]
pub mod operation {
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const EXISTS: i32 = 3;
    pub const GET_DATA: i32 = 4;
    pub const SET_DATA: i32 = 5;
    pub const GET_ACL: i32 = 6;
    pub const GET_CHILDREN: i32 = 8;
    pub const SYNC: i32 = 9;
    pub const PING: i32 = 11;
    pub const CHECK: i32 = 13;
    pub const MULTI: i32 = 14;
    /// The type of the result of a createContainer in a multi, with ZooKeeper.
    pub const CREATE_2: i32 = 15;
    pub const CREATE_CONTAINER: i32 = 19;
    pub const AUTH: i32 = 100;
    /// Since 3.7.
    pub const WHO_AM_I: i32 = 107;
    pub const CLOSE_SESSION: i32 = -11;
    /// The type of a failed result of a multi, and of the header that ends a multi.
    pub const ERROR: i32 = -1;
}

/// xids that are not a request's.
#[allow(missing_docs)]
pub mod xid {
    pub const WATCH: i32 = -1;
    pub const PING: i32 = -2;
    pub const AUTH: i32 = -4;
}

/// `flags` of a create.
#[allow(missing_docs)]
pub mod flag {
    pub const PERSISTENT: i32 = 0;
    pub const EPHEMERAL: i32 = 1;
    pub const SEQUENCE: i32 = 2;
    pub const CONTAINER: i32 = 4;
}

/// An error code of a reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Code(pub i32);

#[allow(missing_docs)]
impl Code {
    pub const OK: Code = Code(0);
    pub const MARSHALLING: Code = Code(-5);
    pub const UNIMPLEMENTED: Code = Code(-6);
    pub const NO_NODE: Code = Code(-101);
    pub const NO_AUTH: Code = Code(-102);
    pub const BAD_VERSION: Code = Code(-103);
    pub const NODE_EXISTS: Code = Code(-110);
    pub const NOT_EMPTY: Code = Code(-111);
    pub const SESSION_EXPIRED: Code = Code(-112);
    pub const AUTH_FAILED: Code = Code(-115);
    pub const SESSION_MOVED: Code = Code(-118);
    pub const READ_ONLY: Code = Code(-119);
    pub const AUTH_DEMANDED: Code = Code(-124);

    /// Whether the server does not know an operation: alone, or in a multi.
    pub fn is_unknown_operation(self) -> bool {
        matches!(self, Code::MARSHALLING | Code::UNIMPLEMENTED)
    }

    /// The message for the user of a program that takes `auth` from its config, or cannot
    /// authenticate.
    pub fn explain(self, takes_auth: bool) -> String {
        let sentence = match (self, takes_auth) {
            (Code::NO_AUTH, false) => "no permission: check the ACL of the node",
            (Code::AUTH_DEMANDED, true) => {
                "the server demands authentication: add \"auth\" to the config (the server's enforce.auth.enabled or sessionRequireClientSASLAuth is on)"
            }
            (Code::AUTH_DEMANDED, false) => {
                "the server demands authentication, and this program cannot authenticate: use a server without enforce.auth.enabled and sessionRequireClientSASLAuth"
            }
            _ => return self.to_string(),
        };
        format!("{sentence} ({})", self.0)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let sentence = match self.0 {
            -4 => "the server lost its own connection",
            -5 => "the server could not read the request",
            -6 => "the server does not know this operation",
            -8 => "the server finds an argument invalid: is the path one that ZooKeeper allows?",
            -101 => "the node does not exist",
            -102 => "no permission: check the ACL of the node and \"auth\" in the config",
            -103 => "the node has another version",
            -108 => "the parent is ephemeral and cannot have children",
            -110 => "the node exists",
            -111 => "the node has children",
            -112 => "the session has expired",
            -113 => "a callback is invalid",
            -114 => "the ACL is invalid: does it name an authenticated user?",
            -115 => {
                "the server refuses this auth scheme: check \"auth\" in the config and the server's authProvider settings"
            }
            -118 => "the session has moved to another server",
            -119 => "the server is read-only: it has lost its quorum",
            -120 => {
                "the server gives this session no ephemeral nodes: set localSessionsUpgradingEnabled=true on it, or localSessionsEnabled=false"
            }
            -124 => "the server demands authentication",
            -125 => "the quota of the parent is exceeded",
            -127 => "the server throttles requests",
            number => return write!(f, "ZooKeeper error {number}"),
        };
        write!(f, "{sentence} ({})", self.0)
    }
}
