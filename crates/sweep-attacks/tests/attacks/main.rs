//! The attacks from outside: laws, refusals, and equality with the reference program.

#[cfg(test)]
mod cascade;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod laws;
#[cfg(test)]
mod parity;
#[cfg(test)]
mod support;
