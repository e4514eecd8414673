//! Wire compatibility: the compiled descriptors against the published table.
//!
//! `cri/v1/schema.tsv` lists every message, field, enum value and RPC of the
//! newest `runtime.v1`. Both sides are turned into the same kind of row and
//! compared as sets, so that a missing, an additional and a changed row all fail.

use std::collections::BTreeSet;

use prost::Message;

const TABLE: &str = include_str!("../cri/v1/schema.tsv");
const PACKAGE: &str = "runtime.v1";

// prost-types decodes options only as far as it knows them and drops
// `debug_redact`, so the few messages that are needed are declared here.
#[derive(Clone, PartialEq, Message)]
struct FileSet {
    #[prost(message, repeated, tag = "1")]
    files: Vec<File>,
}

#[derive(Clone, PartialEq, Message)]
struct File {
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "4")]
    messages: Vec<Descriptor>,
    #[prost(message, repeated, tag = "5")]
    enums: Vec<Enum>,
    #[prost(message, repeated, tag = "6")]
    services: Vec<Service>,
    #[prost(string, tag = "12")]
    syntax: String,
}

#[derive(Clone, PartialEq, Message)]
struct Descriptor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    fields: Vec<Field>,
    #[prost(message, repeated, tag = "3")]
    nested: Vec<Descriptor>,
    #[prost(message, repeated, tag = "4")]
    enums: Vec<Enum>,
    #[prost(message, optional, tag = "7")]
    options: Option<MessageOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct MessageOptions {
    #[prost(bool, tag = "7")]
    map_entry: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Field {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "3")]
    number: i32,
    #[prost(int32, tag = "4")]
    label: i32,
    #[prost(int32, tag = "5")]
    kind: i32,
    #[prost(string, tag = "6")]
    type_name: String,
    #[prost(message, optional, tag = "8")]
    options: Option<FieldOptions>,
    #[prost(int32, optional, tag = "9")]
    oneof: Option<i32>,
    #[prost(bool, tag = "17")]
    proto3_optional: bool,
}

#[derive(Clone, PartialEq, Message)]
struct FieldOptions {
    #[prost(bool, tag = "3")]
    deprecated: bool,
    #[prost(bool, tag = "16")]
    debug_redact: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Enum {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    values: Vec<EnumValue>,
}

#[derive(Clone, PartialEq, Message)]
struct EnumValue {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int32, tag = "2")]
    number: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Service {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    methods: Vec<Method>,
}

#[derive(Clone, PartialEq, Message)]
struct Method {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    input: String,
    #[prost(string, tag = "3")]
    output: String,
    #[prost(bool, tag = "5")]
    client_streaming: bool,
    #[prost(bool, tag = "6")]
    server_streaming: bool,
}

const LABEL_REPEATED: i32 = 3;
const TYPE_MESSAGE: i32 = 11;
const TYPE_ENUM: i32 = 14;

/// The names of `google.protobuf.FieldDescriptorProto.Type`.
fn scalar(kind: i32) -> &'static str {
    match kind {
        1 => "double",
        2 => "float",
        3 => "int64",
        4 => "uint64",
        5 => "int32",
        6 => "fixed64",
        7 => "fixed32",
        8 => "bool",
        9 => "string",
        12 => "bytes",
        13 => "uint32",
        15 => "sfixed32",
        16 => "sfixed64",
        17 => "sint32",
        18 => "sint64",
        _ => "not-a-scalar",
    }
}

fn type_of(field: &Field) -> String {
    match field.kind {
        TYPE_MESSAGE | TYPE_ENUM => field.type_name.trim_start_matches('.').to_owned(),
        kind => scalar(kind).to_owned(),
    }
}

/// The label as the table writes it, and the type: for maps that is the value's.
fn label_and_type(message: &Descriptor, field: &Field) -> (String, String) {
    let entry = message.nested.iter().find(|nested| {
        nested.options.as_ref().is_some_and(|o| o.map_entry)
            && field.type_name.ends_with(&format!(".{}", nested.name))
    });
    if let Some(entry) = entry {
        let (key, value) = (type_of(&entry.fields[0]), type_of(&entry.fields[1]));
        return (format!("map<{key},{value}>"), value);
    }
    let label = if field.label == LABEL_REPEATED {
        "repeated"
    } else if field.proto3_optional {
        "optional"
    } else if field.oneof.is_some() {
        "oneof"
    } else {
        "singular"
    };
    (label.to_owned(), type_of(field))
}

fn flags_of(field: &Field) -> String {
    let options = field.options.clone().unwrap_or_default();
    let named = [
        (options.deprecated, "deprecated"),
        (options.debug_redact, "debug_redact"),
    ];
    let set: Vec<&str> = named.iter().filter(|(on, _)| *on).map(|n| n.1).collect();
    set.join(",")
}

fn row(columns: [&str; 7]) -> String {
    columns.join("\t")
}

fn message_rows(owner: &str, message: &Descriptor, rows: &mut BTreeSet<String>) {
    let name = format!("{owner}.{}", message.name);
    let count = message.fields.len().to_string();
    rows.insert(row(["message", &name, &count, "", "", "", ""]));
    for field in &message.fields {
        let (label, kind) = label_and_type(message, field);
        rows.insert(row([
            "field",
            &name,
            &field.number.to_string(),
            &field.name,
            &kind,
            &label,
            &flags_of(field),
        ]));
    }
    for nested in &message.nested {
        if !nested.options.as_ref().is_some_and(|o| o.map_entry) {
            message_rows(&name, nested, rows);
        }
    }
    for kind in &message.enums {
        enum_rows(&name, kind, rows);
    }
}

fn enum_rows(owner: &str, kind: &Enum, rows: &mut BTreeSet<String>) {
    let name = format!("{owner}.{}", kind.name);
    for value in &kind.values {
        let number = value.number.to_string();
        rows.insert(row(["enum", &name, &number, &value.name, "", "", ""]));
    }
}

fn service_rows(service: &Service, rows: &mut BTreeSet<String>) {
    let name = format!("{PACKAGE}.{}", service.name);
    for method in &service.methods {
        let streaming = match (method.client_streaming, method.server_streaming) {
            (false, false) => "unary",
            (false, true) => "server_streaming",
            (true, false) => "client_streaming",
            (true, true) => "bidirectional",
        };
        rows.insert(row([
            "rpc",
            &name,
            "",
            &method.name,
            method.input.trim_start_matches('.'),
            method.output.trim_start_matches('.'),
            streaming,
        ]));
    }
}

fn compiled(descriptors: &[u8]) -> BTreeSet<String> {
    let set = FileSet::decode(descriptors).expect("the embedded descriptors decode");
    let mut rows = BTreeSet::new();
    for file in set.files.iter().filter(|f| f.package == PACKAGE) {
        assert_eq!(file.syntax, "proto3");
        for message in &file.messages {
            message_rows(PACKAGE, message, &mut rows);
        }
        for kind in &file.enums {
            enum_rows(PACKAGE, kind, &mut rows);
        }
        for service in &file.services {
            service_rows(service, &mut rows);
        }
    }
    rows
}

fn table() -> BTreeSet<String> {
    let rows: BTreeSet<String> = TABLE
        .lines()
        .skip(1)
        .filter(|line| !line.starts_with("source\t"))
        .map(|line| {
            let mut columns = line.split('\t').collect::<Vec<_>>();
            columns.resize(7, "");
            columns.join("\t")
        })
        .collect();
    rows
}

/// What the schema lacks, and what it has that the table does not.
fn differences(descriptors: &[u8]) -> Vec<String> {
    let (want, have) = (table(), compiled(descriptors));
    let missing = want.difference(&have).map(|row| format!("missing  {row}"));
    let extra = have.difference(&want).map(|row| format!("extra    {row}"));
    missing.chain(extra).collect()
}

#[test]
fn the_schema_is_the_published_one_to_the_last_number() {
    let wrong = differences(berth_proto::DESCRIPTORS);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_is_whole() {
    let count = |kind: &str| table().iter().filter(|r| r.starts_with(kind)).count();
    assert_eq!(count("message\t"), 175);
    assert_eq!(count("field\t"), 478);
    assert_eq!(count("enum\t"), 95);
    assert_eq!(count("rpc\t"), 43);
}

#[test]
fn a_changed_number_name_type_label_flag_or_rpc_is_found() {
    type Change = fn(&mut File);
    fn field<'a>(file: &'a mut File, message: &str, name: &str) -> &'a mut Field {
        let message = file.messages.iter_mut().find(|m| m.name == message);
        let fields = &mut message.expect("the message exists").fields;
        let found = fields.iter_mut().find(|f| f.name == name);
        found.expect("the field exists")
    }
    let changes: [(&str, Change); 8] = [
        ("number", |f| field(f, "Mount", "host_path").number = 99),
        ("name", |f| {
            field(f, "Mount", "host_path").name = "path".into();
        }),
        ("type", |f| field(f, "Mount", "readonly").kind = 9),
        ("label", |f| {
            field(f, "Mount", "host_path").label = LABEL_REPEATED;
        }),
        ("flag", |f| {
            field(f, "AuthConfig", "password").options = None
        }),
        ("rpc", |f| {
            f.services[0].methods[0].server_streaming = true;
        }),
        ("enum", |f| f.enums[0].values[1].number = 77),
        ("message", |f| {
            f.messages.pop();
        }),
    ];
    for (what, change) in changes {
        let mut set = FileSet::decode(berth_proto::DESCRIPTORS).expect("decodes");
        let mut files = set.files.iter_mut();
        change(files.find(|f| f.package == PACKAGE).expect("the package"));
        assert!(
            !differences(&set.encode_to_vec()).is_empty(),
            "a changed {what} went unnoticed"
        );
    }
}
