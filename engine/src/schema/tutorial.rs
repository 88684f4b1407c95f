//! The tutorial, whose code runs as tests.
#![doc = include_str!("../../docs/pstates.md")]
