//! systemd's manager: scopes and their properties.

use crate::{
    Error, Property, Value,
    bus::Bus,
    name::{check_slice, check_unit},
    property::write_all,
    wire::{Call, Message, Reader, Writer},
};

const DESTINATION: &str = "org.freedesktop.systemd1";
const MANAGER: Call<'static> = Call {
    destination: DESTINATION,
    path: "/org/freedesktop/systemd1",
    interface: "org.freedesktop.systemd1.Manager",
    member: "",
    signature: "",
};

/// A connection to systemd.
#[derive(Debug)]
pub struct Manager(Bus);

/// A scope that is to be.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Such as `berth-ID.scope`.
    pub name: &'a str,
    /// The slice that it lies in; made if it is missing.
    pub slice: &'a str,
    /// What people read.
    pub description: &'a str,
    /// The process that is moved in: systemd makes no empty scope, and takes one away
    /// that becomes empty.
    pub pid: u32,
    /// Beyond those that every container's scope has; later ones win.
    pub properties: &'a [Property],
}

impl Manager {
    /// Connects over systemd's own socket, or the system bus.
    ///
    /// # Errors
    /// [`Error::Unreachable`] where neither is there.
    pub fn connect() -> Result<Self, Error> {
        Bus::connect().map(Self)
    }

    /// Starts a scope and waits until it is there; its control group, absolute, as
    /// systemd counts it.
    ///
    /// # Errors
    /// [`Error::Invalid`] for names and properties; [`Error::Refused`] if there is one
    /// of that name, or a property is not known; [`Error::Job`].
    pub fn start_scope(&mut self, scope: &Scope<'_>) -> Result<String, Error> {
        check_unit(scope.name, ".scope")?;
        check_slice(scope.slice)?;
        let mut properties = vec![
            Property::new("Description", Value::Text(scope.description.to_owned())),
            Property::new("Slice", Value::Text(scope.slice.to_owned())),
            Property::new("PIDs", Value::Numbers(vec![scope.pid])),
            // systemd makes the group and leaves what is in it alone.
            Property::new("Delegate", Value::Bool(true)),
            // Its files are there whether or not somebody asks for limits.
            Property::new("MemoryAccounting", Value::Bool(true)),
            Property::new("CPUAccounting", Value::Bool(true)),
            Property::new("IOAccounting", Value::Bool(true)),
            Property::new("TasksAccounting", Value::Bool(true)),
            // What is ordered before it at shutdown is not systemd's to guess.
            Property::new("DefaultDependencies", Value::Bool(false)),
            // Nothing remains of one that failed: its name can be used again.
            Property::new("CollectMode", Value::Text("inactive-or-failed".to_owned())),
        ];
        for property in scope.properties {
            properties.retain(|other| other.name != property.name);
            properties.push(property.clone());
        }
        let mut body = Writer::default();
        body.string(scope.name);
        body.string("fail");
        write_all(&mut body, &properties);
        // No auxiliary units: a(sa(sv)).
        body.array(8, |_| {});
        let call = Call {
            member: "StartTransientUnit",
            signature: "ssa(sv)a(sa(sv))",
            ..MANAGER
        };
        let answer = self.0.call(&call, &body.0).map_err(named(scope.name))?;
        let job = Reader::new(&answer.body).string()?;
        self.await_job(&job, scope.name)?;
        self.control_group(scope.name)
    }

    /// Changes properties of a unit until it goes.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is no such unit ([`Error::is_no_such_unit`]) or
    /// property.
    pub fn set_properties(&mut self, unit: &str, properties: &[Property]) -> Result<(), Error> {
        let mut body = Writer::default();
        body.string(unit);
        // Until it goes, not for ever.
        body.u32(1);
        write_all(&mut body, properties);
        let call = Call {
            member: "SetUnitProperties",
            signature: "sba(sv)",
            ..MANAGER
        };
        self.0.call(&call, &body.0).map_err(named(unit)).map(drop)
    }

    fn await_job(&mut self, job: &str, unit: &str) -> Result<(), Error> {
        let what = format!("the job for {unit}");
        let result = self.0.signal(&what, |signal| removed(signal, job))?;
        match result.as_str() {
            "done" => Ok(()),
            _ => Err(Error::Job {
                unit: unit.to_owned(),
                result,
            }),
        }
    }

    fn control_group(&mut self, unit: &str) -> Result<String, Error> {
        let mut body = Writer::default();
        body.string(unit);
        let get = Call {
            member: "GetUnit",
            signature: "s",
            ..MANAGER
        };
        let answer = self.0.call(&get, &body.0).map_err(named(unit))?;
        let path = Reader::new(&answer.body).string()?;
        let mut body = Writer::default();
        body.string("org.freedesktop.systemd1.Scope");
        body.string("ControlGroup");
        let call = Call {
            destination: DESTINATION,
            path: &path,
            interface: "org.freedesktop.DBus.Properties",
            member: "Get",
            signature: "ss",
        };
        let answer = self.0.call(&call, &body.0).map_err(named(unit))?;
        let mut reader = Reader::new(&answer.body);
        if reader.signature()? != "s" {
            return Err(Error::Answer("a control group is no string"));
        }
        reader.string()
    }
}

/// Adds the unit to what was refused.
fn named(unit: &str) -> impl FnOnce(Error) -> Error {
    move |error| match error {
        Error::Refused {
            what,
            name,
            message,
        } => Error::Refused {
            what: format!("{what} of {unit}"),
            name,
            message,
        },
        other => other,
    }
}

/// The result of `job` if the signal says that it has ended.
fn removed(signal: &Message, job: &str) -> Option<String> {
    if signal.member != "JobRemoved" || signal.signature != "uoss" {
        return None;
    }
    let mut reader = Reader::new(&signal.body);
    reader.u32().ok()?;
    let path = reader.string().ok()?;
    let _unit = reader.string().ok()?;
    let result = reader.string().ok()?;
    (path == job).then_some(result)
}
