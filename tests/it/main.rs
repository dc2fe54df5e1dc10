#![allow(missing_docs)]

mod support;

mod forwarding;
