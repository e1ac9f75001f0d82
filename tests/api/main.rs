//! The gateway as clients and operators meet it: over real sockets, in front of simulated and scripted nodes.
mod harness;
mod smoke;
