//! pprof's format: `profile.proto` of the pprof project, of which the messages below
//! have the numbers and types that are used here.

use std::{
    collections::HashMap,
    io::{self, Write as _},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use prost::Message;

use crate::maps::Maps;

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Profile {
    #[prost(message, repeated, tag = "1")]
    pub(crate) sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    pub(crate) location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    pub(crate) function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    pub(crate) string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    pub(crate) time_nanos: i64,
    #[prost(int64, tag = "10")]
    pub(crate) duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    pub(crate) period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    pub(crate) period: i64,
    #[prost(int64, repeated, tag = "13")]
    pub(crate) comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    pub(crate) default_sample_type: i64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct ValueType {
    #[prost(int64, tag = "1")]
    pub(crate) kind: i64,
    #[prost(int64, tag = "2")]
    pub(crate) unit: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    pub(crate) value: Vec<i64>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Mapping {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) memory_start: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) memory_limit: u64,
    #[prost(uint64, tag = "4")]
    pub(crate) file_offset: u64,
    #[prost(int64, tag = "5")]
    pub(crate) filename: i64,
    #[prost(int64, tag = "6")]
    pub(crate) build_id: i64,
    #[prost(bool, tag = "7")]
    pub(crate) has_functions: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Location {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(uint64, tag = "2")]
    pub(crate) mapping_id: u64,
    #[prost(uint64, tag = "3")]
    pub(crate) address: u64,
    #[prost(message, repeated, tag = "4")]
    pub(crate) line: Vec<Line>,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Line {
    #[prost(uint64, tag = "1")]
    pub(crate) function_id: u64,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub(crate) struct Function {
    #[prost(uint64, tag = "1")]
    pub(crate) id: u64,
    #[prost(int64, tag = "2")]
    pub(crate) name: i64,
    #[prost(int64, tag = "3")]
    pub(crate) system_name: i64,
}

/// What a recording was.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) began_at: SystemTime,
    pub(crate) took: Duration,
    pub(crate) period: Duration,
    pub(crate) comments: Vec<String>,
}

/// Strings by their index in the table.
#[derive(Default)]
struct Strings(HashMap<String, i64>);

impl Strings {
    fn index(&mut self, text: &str) -> i64 {
        if let Some(index) = self.0.get(text) {
            return *index;
        }
        let index = self.0.len() as i64;
        self.0.insert(text.to_owned(), index);
        index
    }

    fn into_table(self) -> Vec<String> {
        let mut table = vec![String::new(); self.0.len()];
        for (text, index) in self.0 {
            if let Some(place) = table.get_mut(index as usize) {
                *place = text;
            }
        }
        table
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// The profile, compressed.
pub(crate) fn encode(
    maps: &Maps,
    stacks: &HashMap<Box<[u64]>, u64>,
    run: Run,
) -> io::Result<Vec<u8>> {
    let profile = profile(maps, stacks, run);
    let mut compressed = GzEncoder::new(Vec::new(), Compression::default());
    compressed.write_all(&profile.encode_to_vec())?;
    compressed.finish()
}

fn profile(maps: &Maps, stacks: &HashMap<Box<[u64]>, u64>, run: Run) -> Profile {
    let mut strings = Strings::default();
    // The format has the empty string first.
    strings.index("");
    let mut locations = Locations::default();
    let period = nanoseconds(run.period);
    let mut profile = Profile::default();
    for (chain, &count) in stacks {
        let ids = chain.iter().map(|address| locations.id(*address));
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        profile.sample.push(Sample {
            location_id: ids.collect(),
            value: vec![count, count.saturating_mul(period)],
        });
    }
    for (index, mapping) in maps.iter().enumerate() {
        let object = mapping.object.as_deref();
        profile.mapping.push(Mapping {
            id: index as u64 + 1,
            memory_start: mapping.start,
            memory_limit: mapping.limit,
            file_offset: mapping.offset,
            filename: strings.index(&mapping.path),
            build_id: strings.index(object.map_or("", |object| object.build_id())),
            // Else pprof looks for names itself, in a copy that it may have.
            has_functions: object.is_some_and(|object| object.all_named()),
        });
    }
    let mut functions: HashMap<(usize, u64), u64> = HashMap::new();
    for (address, id) in locations.in_order() {
        let mut location = Location {
            id,
            address,
            ..Location::default()
        };
        if let Some((index, mapping)) = maps.find(address) {
            location.mapping_id = index as u64 + 1;
            let named = mapping
                .in_object(address)
                .and_then(|(object, address)| object.function(address));
            if let Some((name, begin)) = named {
                let next = functions.len() as u64 + 1;
                let function_id = *functions.entry((index, begin)).or_insert(next);
                if function_id == next {
                    // pprof makes readable names of the system's.
                    let name = strings.index(name);
                    profile.function.push(Function {
                        id: next,
                        name,
                        system_name: name,
                    });
                }
                location.line.push(Line { function_id });
            }
        }
        profile.location.push(location);
    }
    let mut value = |kind, unit| ValueType {
        kind: strings.index(kind),
        unit: strings.index(unit),
    };
    profile.sample_type = vec![value("samples", "count"), value("cpu", "nanoseconds")];
    profile.period_type = Some(value("cpu", "nanoseconds"));
    profile.default_sample_type = strings.index("cpu");
    profile.period = period;
    profile.time_nanos = nanoseconds(run.began_at.duration_since(UNIX_EPOCH).unwrap_or_default());
    profile.duration_nanos = nanoseconds(run.took);
    profile.comment = run
        .comments
        .iter()
        .map(|text| strings.index(text))
        .collect();
    profile.string_table = strings.into_table();
    profile
}

/// Addresses by their number in the profile.
#[derive(Default)]
struct Locations(HashMap<u64, u64>);

impl Locations {
    fn id(&mut self, address: u64) -> u64 {
        let next = self.0.len() as u64 + 1;
        *self.0.entry(address).or_insert(next)
    }

    fn in_order(self) -> Vec<(u64, u64)> {
        let mut all: Vec<(u64, u64)> = self.0.into_iter().collect();
        all.sort_by_key(|(_, id)| *id);
        all
    }
}

#[cfg(test)]
pub(crate) fn decode(compressed: &[u8]) -> Profile {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(compressed)
        .read_to_end(&mut bytes)
        .unwrap();
    Profile::decode(&*bytes).unwrap()
}
