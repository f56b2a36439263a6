//! The parameters of reads. Names that are not known are ignored; values that cannot be parsed are INVALID.

use std::fmt::Display;
use std::str::FromStr;

use axum::http::HeaderMap;
use lanecast_protocol::codes::Code;
use lanecast_protocol::log::Start;
use lanecast_protocol::position::{Cursor, DurableLane, NUMBER_LIMIT, Position};
use lanecast_protocol::v1;

use crate::http::error::Refused;

/// The header with which an SSE client says where it was.
const LAST_EVENT_ID: &str = "last-event-id";

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Splits the query of a URL.
    pub(super) fn parse(query: Option<&str>) -> Result<Self, Refused> {
        let uri: Result<axum::http::Uri, _> = format!("/?{}", query.unwrap_or_default()).parse();
        let uri = uri.map_err(|_| invalid("the query", "it cannot be parsed"))?;
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&uri);
        pairs.map(|pairs| Self(pairs.0)).map_err(|_| invalid("the query", "it cannot be parsed"))
    }

    fn get(&self, name: &str) -> Result<Option<&str>, Refused> {
        let mut values = self.0.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let first = values.next();
        if values.next().is_some() { Err(invalid(name, "it is given twice")) } else { Ok(first) }
    }

    /// A text; empty if it is not given.
    pub(super) fn text(&self, name: &str) -> Result<String, Refused> {
        Ok(self.get(name)?.unwrap_or_default().to_owned())
    }

    /// A number, or another value that its own type reads.
    pub(super) fn number<T: FromStr<Err: Display>>(&self, name: &str) -> Result<Option<T>, Refused> {
        self.get(name)?.map(|text| text.parse().map_err(|why: T::Err| invalid(name, &why.to_string()))).transpose()
    }

    /// Which way a page is read.
    pub(super) fn direction(&self) -> Result<v1::HistoryDirection, Refused> {
        match self.get("direction")? {
            None | Some("backward") => Ok(v1::HistoryDirection::Backward),
            Some("forward") => Ok(v1::HistoryDirection::Forward),
            Some(_) => Err(invalid("direction", "it is backward or forward")),
        }
    }

    /// Where a page begins.
    pub(super) fn cursor(&self) -> Result<Option<Cursor>, Refused> {
        self.number("cursor")
    }

    /// The lanes of a page.
    pub(super) fn lanes(&self) -> Result<Vec<i32>, Refused> {
        let Some(names) = self.get("lanes")? else { return Ok(Vec::new()) };
        let lane = |name| DurableLane::from_name(name).map(|lane| v1::Lane::from(lane).into());
        let lanes: Option<Vec<i32>> = names.split(',').map(lane).collect();
        let lanes = lanes.ok_or_else(|| invalid("lanes", "it lists urgent, normal and bulk, separated by commas"))?;
        if lanes.len() > DurableLane::COUNT { Err(invalid("lanes", "a lane is named twice")) } else { Ok(lanes) }
    }

    /// Whether a stream sends signals too.
    pub(super) fn signals(&self) -> Result<bool, Refused> {
        match self.get("signals")? {
            None | Some("false") => Ok(false),
            Some("true") => Ok(true),
            Some(_) => Err(invalid("signals", "it is true or false")),
        }
    }

    /// Where a stream starts: the header wins over the query (LC-API-020, LC-API-023).
    pub(super) fn start(&self, headers: &HeaderMap) -> Result<Start, Refused> {
        let mut starts = Vec::new();
        if let Some(position) = self.get("position")? {
            starts.push(Start::Position(position_of("position", position)?));
        }
        if let Some(count) = self.number::<u32>("count")? {
            starts.push(Start::Count(count.into()));
        }
        if let Some(since_ms) = self.number::<u64>("since_ms")? {
            if since_ms >= NUMBER_LIMIT {
                return Err(invalid("since_ms", "it is not below 2^53"));
            }
            starts.push(Start::Duration(since_ms));
        }
        match self.get("from")? {
            None => {}
            Some("beginning") => starts.push(Start::Beginning),
            Some("live") => starts.push(Start::Live),
            Some(_) => return Err(invalid("from", "it is beginning or live")),
        }
        if starts.len() > 1 {
            return Err(invalid("the query", "it has two starts"));
        }
        let mut ids = headers.get_all(LAST_EVENT_ID).iter();
        match (ids.next(), ids.next()) {
            (None, _) => Ok(starts.pop().unwrap_or(Start::Live)),
            (Some(id), None) => {
                let id = id.to_str().map_err(|_| invalid("Last-Event-ID", "it is not a position"))?;
                position_of("Last-Event-ID", id).map(Start::Position)
            }
            (Some(_), Some(_)) => Err(invalid("Last-Event-ID", "it is given twice")),
        }
    }
}

fn position_of(name: &str, text: &str) -> Result<Position, Refused> {
    let position: Position = text.parse().map_err(|why| invalid(name, &format!("{why}")))?;
    // As in Subscribe: no log ever has epoch 0.
    if position.epoch == 0 { Err(invalid(name, "no epoch is 0")) } else { Ok(position) }
}

fn invalid(name: &str, why: &str) -> Refused {
    Refused::new(Code::Invalid, format!("{name}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Query {
        Query::parse(Some(text)).unwrap()
    }

    fn start(text: &str, id: Option<&str>) -> Result<Start, Code> {
        let id = id.map(|id| (LAST_EVENT_ID.parse().unwrap(), id.parse().unwrap()));
        query(text).start(&HeaderMap::from_iter(id)).map_err(|refused| refused.code)
    }

    #[test]
    fn starts_are_parsed() {
        // LC-API-020, LC-API-023
        let position: Position = "7-1-2-3".parse().unwrap();
        assert_eq!(start("", None), Ok(Start::Live));
        assert_eq!(start("from=beginning&unknown=1", None), Ok(Start::Beginning));
        assert_eq!(start("count=5", None), Ok(Start::Count(5)));
        assert_eq!(start("since_ms=60000", None), Ok(Start::Duration(60_000)));
        assert_eq!(start("position=7-1-2-3", None), Ok(Start::Position(position)));
        assert_eq!(start("from=live", Some("7-1-2-3")), Ok(Start::Position(position)), "the header wins");
        for (text, id) in [
            ("position=7-1-2", None),
            ("position=0-1-2-3", None),
            ("position=", None),
            ("count=-1", None),
            ("count=5&count=6", None),
            ("count=5&from=live", None),
            ("from=now", None),
            ("since_ms=9007199254740992", None),
            ("", Some("")),
            ("", Some("7-1-2-03")),
            ("", Some("7-1-2-9007199254740992")),
            ("", Some("latest")),
        ] {
            assert_eq!(start(text, id), Err(Code::Invalid), "{text} {id:?}");
        }
    }

    #[test]
    fn history_parameters_are_parsed() {
        // LC-API-008
        let full = query("direction=forward&cursor=7-90&limit=10&lanes=urgent,bulk");
        assert_eq!(full.direction().unwrap(), v1::HistoryDirection::Forward);
        assert_eq!(full.cursor().unwrap(), Some(Cursor { epoch: 7, order: 90 }));
        assert_eq!(full.number::<u32>("limit").unwrap(), Some(10));
        assert_eq!(full.lanes().unwrap(), [v1::Lane::Urgent as i32, v1::Lane::Bulk as i32]);
        assert!(query("direction=up").direction().is_err());
        assert!(query("cursor=7").cursor().is_err());
        assert!(query("limit=many").number::<u32>("limit").is_err());
        for lanes in ["lanes=", "lanes=control", "lanes=signal", "lanes=urgent,", "lanes=bulk,bulk,bulk,bulk"] {
            assert!(query(lanes).lanes().is_err(), "{lanes}");
        }
    }
}
