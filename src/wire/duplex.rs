//! A connection of any kind, behind one type: what is done over it is compiled once, and not anew for each kind.

use tokio::io::{AsyncRead, AsyncWrite};

/// What bytes go through in both directions: a socket of an address or of a path, or TLS over one.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

/// A connection.
pub(crate) type Stream = Box<dyn Duplex>;
