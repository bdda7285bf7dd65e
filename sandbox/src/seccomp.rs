//! stub
use serde::{Deserialize, Serialize};
/// stub
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {}
impl Profile {
    /// stub
    pub fn standard(_: u64) -> Profile {
        Profile {}
    }
    /// stub
    pub fn compile(&self) -> Result<Vec<libc::sock_filter>, crate::Error> {
        Ok(vec![])
    }
}
